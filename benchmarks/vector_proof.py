"""Benchmark: the cost of proving that every element of every vector reached the table. It compares no other engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from benchmarks.alone import parser, reported
from benchmarks.harness import Spread
from benchmarks.report import Section
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import load_settings
from laion_assets.shard.merge import BLOCK_ROWS, merge_shard
from laion_assets.shard.merged import MergedShard
from laion_assets.shard.store import ShardStore
from laion_assets.shard.vector_sum import file_vector_sum, vector_sum, vector_sum_sql
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition

ABOUT = """\
One sample shard of {rows:,} rows with two vectors of 512 elements per row, loaded into the embedded engine. The lines
take turns for {runs} rounds. Figures are CPU seconds of the process (all threads). *a whole load* is a load with all
checks. *a scan of squared lengths* computes the squared lengths of all vectors, which the check of a load needs in any
case. The next line is the same scan with the sums over all bits. *the sums over blocks in memory* is what the merge
does. The last line reads the vectors of the file once more, which the product does not do."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks vector_proof`."""
    options = parser(__doc__, "vector_proof")
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--runs", type=int, default=3, help="rounds")
    given = options.parse_args(arguments)
    with reported("vector_proof", ABOUT.format(**vars(given)), given) as report:
        settings = load_settings(dataset_name="sample", data_dir=report.scratch / "data")
        store = ShardStore.of(settings)
        store.raw_folder.mkdir(parents=True)
        for path in write_sample_shard(report.scratch / "sample", 0, given.rows, seed=7):
            path.replace(store.raw_folder / path.name)
        merging: list[float] = []
        merged = _timed(merging, lambda: merge_shard(store, 0, max_bad_fraction=0.001))
        took: dict[str, list[float]] = {}
        with connect(settings) as db:
            for number in range(given.runs):
                for name, work in _works(db, merged).items():
                    _timed(took.setdefault(name, []), work)
                report.say(f"round {number + 1} of {given.runs}")
    rows = [["", "CPU s"], ["merge", f"{merging[0]:.2f}"]]
    report.table("CPU seconds", [*rows, *([name, Spread.of(each).text(".2f")] for name, each in took.items())])
    load, plain, summed, blocks = (np.array(took[name]) for name in (LOAD, PLAIN, SUMMED, BLOCKS))
    report.figure("the proof in the engine / the load", ((summed - plain) / load).tolist(), sign="≤", goal=0.1)
    report.figure("the sums in the merge / the merge", (blocks / merging[0]).tolist())
    return report.section


Result = TypeVar("Result")

LOAD, PLAIN, SUMMED = "a whole load", "a scan of squared lengths", "the same with the sums over all bits"
BLOCKS, AGAIN = "the sums over blocks in memory", "the sums over the file's vectors, read once more"


def _works(db: Database, merged: MergedShard) -> dict[str, Callable[[], object]]:
    columns, dimension = db.settings.dataset.vector_columns, db.settings.dataset.dimension
    lengths = ", ".join(f"sum(dotProduct({name}, {name}))" for name in columns)
    sums = ", ".join(vector_sum_sql(name, dimension) for name in columns)
    block = np.random.default_rng(1).standard_normal((BLOCK_ROWS, dimension)).astype(np.float32)
    ids = np.arange(BLOCK_ROWS, dtype=np.int64)
    blocks = -(-merged.rows // BLOCK_ROWS) * len(columns)

    def read_again() -> None:
        with pq.ParquetFile(merged.path) as file:
            for name in columns:
                file_vector_sum(file, name, dimension)

    return {
        LOAD: lambda: load_partition(db, merged),
        PLAIN: lambda: db.one(f"SELECT {lengths} FROM {db.table}"),
        SUMMED: lambda: db.one(f"SELECT {lengths}, {sums} FROM {db.table}"),
        BLOCKS: lambda: [vector_sum(ids, block) for _ in range(blocks)],
        AGAIN: read_again,
    }


def _timed(seconds: list[float], work: Callable[[], Result]) -> Result:
    started = time.process_time()
    result = work()
    seconds.append(time.process_time() - started)
    return result


if __name__ == "__main__":
    main()
