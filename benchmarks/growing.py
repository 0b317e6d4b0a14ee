"""Measured program: loads tiny shards, indexes and searches them, reads their state. It compares nothing."""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from dagster import DagsterRunStatus
from rich.console import Console
from sqlalchemy import Engine, event

from benchmarks.stage import StageReport
from laion_assets.dataset import ID_STRIDE
from laion_assets.index.cover import index_cover
from laion_assets.index.declared import index_names
from laion_assets.index.graphs import build_indexes
from laion_assets.index.replaced import declare_indexes
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.schema import partitions, table_columns
from laion_assets.table.vectors import draw_rows, vectors_of
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.status import read_status
from laion_assets_tests.automation.recorded import Recorder

ROWS = 200
"""Rows of a tiny shard."""

COPIES = 50
"""Partitions that one statement fills."""

SEARCHES = 50
FIELDS = {"hnsw_m": 8, "hnsw_ef_construction": 32, "index_first": 1_000_000, "index_cache_bytes": 32 << 30}
"""A graph of 200 rows costs almost nothing, so that everything but the graph is measured. The cache counts 16 MiB for
each graph."""


def main() -> None:
    """`python -m benchmarks.growing fill|load|index|look FOLDER [FIRST COUNT]`. FOLDER contains `tiny.toml`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("fill", "load", "index", "look"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("count", type=int, nargs="?", default=0)
    given = parser.parse_args()
    folder = given.folder.absolute()
    settings = load_settings(dataset_name=str(folder / "tiny.toml"), data_dir=folder / "data", **FIELDS)
    report = StageReport()
    shards = range(given.first, given.first + given.count)
    if given.step == "fill":
        _fill(settings, folder, shards)
    elif given.step == "load":
        _load(settings, folder, shards, report)
    elif given.step == "index":
        _index(settings, report)
    else:
        _look(settings, folder, report)
    report.close()


def _fill(settings: Settings, folder: Path, shards: range) -> None:
    """Writes indexed partitions of one part each. For each partition it adds a run and materializations to Dagster's
    history."""
    unsynced_history()
    make_instance(folder / "dagster")
    with dagster_instance() as instance, connect(settings) as db:
        if not shards.start:
            store = ShardStore(settings.data_dir, settings.dataset)
            fetch_shard(settings, 0, store.raw_folder)
            load_partition(db, merge_shard(store, 0, max_bad_fraction=0.01))
        for start in range(max(shards.start, 1), shards.stop, COPIES):
            _copy_first(db, start, min(start + COPIES, shards.stop))
        _index_all(db)
        recorder = Recorder(instance, settings)
        for shard in shards:
            recorder.load(shard, rows=ROWS)
            recorder.run(shard, DagsterRunStatus.SUCCESS)
        states = {state.shard: (state.rows, state.parts) for state in partitions(db)}
    wrong = [shard for shard in shards if states.get(shard) != (ROWS, 1)]
    if wrong:
        raise RuntimeError(f"each partition must be one part of {ROWS} rows, but partitions {wrong} are not")


def unsynced_history() -> None:
    """Makes commits to SQLite not wait for the disk. With waiting, 410 partitions took ten minutes, at twenty events
    per run."""
    event.listen(Engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))


def _copy_first(db: Database, start: int, stop: int) -> None:
    """Copies the rows of partition 0 to partitions `start` to `stop` - 1, in one block."""
    new = {"id": f"id + number * {ID_STRIDE}", "shard": "toUInt16(number)"}
    columns = list(table_columns(db))
    chosen = ", ".join(f"{new[name]} AS {name}_new" if name in new else name for name in columns)
    numbers = f"(SELECT number FROM numbers({start}, {stop - start})) AS numbers"
    db.command(
        f"INSERT INTO {db.table} ({', '.join(columns)}) SELECT {chosen} "
        f"FROM (SELECT * FROM {db.table} WHERE shard = 0) AS first CROSS JOIN {numbers}",
        settings={
            "max_threads": 1,
            "max_insert_threads": 1,
            "min_insert_block_size_rows": COPIES * ROWS,
            "min_insert_block_size_bytes": 0,
            "materialize_skip_indexes_on_insert": 0,
        },
    )


def _index_all(db: Database) -> None:
    """Builds all indexes by one mutation. The product uses one mutation per partition, and each of these mutations
    gives all other parts a new version."""
    declare_indexes(db, print)
    both = ", ".join(f"MATERIALIZE INDEX {name}" for name in index_names(db))
    db.command(f"ALTER TABLE {db.table} {both}", settings={"mutations_sync": 2})
    if lacking := [cover for cover in index_cover(db) if not cover.covered]:
        raise RuntimeError(f"these partitions should be indexed, but are not: {lacking}")
    db.command(f"ALTER TABLE {db.table} MODIFY SETTING old_parts_lifetime = 1")
    _wait_for_removal(db)


def _wait_for_removal(db: Database) -> None:
    """Waits until the parts that mutations replaced are removed.

    The engine keeps replaced parts for 8 minutes, and reads them when it is opened. With full shards there are few
    replaced parts, since indexing one shard takes half an hour.
    """
    deadline = time.monotonic() + 300
    while db.one("SELECT count() FROM system.parts WHERE table = 'laion' AND NOT active")[0]:
        if time.monotonic() > deadline:
            raise RuntimeError("replaced parts are still there")
        time.sleep(1.1)
        # Dropping a partition, even one that does not exist, removes replaced parts at once.
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 65535")


def _load(settings: Settings, folder: Path, shards: range, report: StageReport) -> None:
    """Loads shards as `laion-assets load FIRST-LAST` does, and reports seconds per shard.

    The first shard is loaded by a separate call and is not counted.
    """
    make_instance(folder / "dagster")
    console = Console(file=io.StringIO())
    with dagster_instance() as instance:
        for part in (shards[:1], shards[1:]):
            started, used = time.perf_counter(), time.process_time()
            if not load(settings, list(part), instance, console, again=False):
                raise RuntimeError(f"shards {part} should be loaded, but the load failed")
            wall, cores = time.perf_counter() - started, time.process_time() - used
    report.say(wall=wall / len(part), cores=cores / len(part))


def _index(settings: Settings, report: StageReport) -> None:
    with connect(settings) as db:
        cover, cover_cores = _median(lambda: index_cover(db), 3)
        built = build_indexes(db)
        _wait_for_removal(db)
    report.say(
        partitions=len(built.shards),
        seconds=built.seconds,
        cores=built.core_seconds,
        cover=cover,
        cover_cores=cover_cores,
    )


def _look(settings: Settings, folder: Path, report: StageReport) -> None:
    """Reports the median seconds of a search by index, of an exact search, and of reading the state that
    `laion-assets status` shows."""
    make_instance(folder / "dagster")
    with dagster_instance() as instance:
        status, status_cores = _median(lambda: read_status(settings, instance), 5)
    with connect(settings) as db:
        vectors = vectors_of(db, "image", draw_rows(db, SEARCHES, seed=0)).vectors
        figures = {}
        for name, exact in (("index", False), ("exact", True)):
            request = SearchRequest(exact=exact, settings=() if exact else (("vector_search_with_rescoring", 0),))
            search(db, vectors[0], request)  # reads the graphs
            used = time.process_time()
            figures[name] = statistics.median(search(db, vector, request).seconds for vector in vectors)
            figures[f"{name}_cores"] = (time.process_time() - used) / len(vectors)
    report.say(status=status, status_cores=status_cores, **figures)


def _median(call: Callable[[], object], times: int) -> tuple[float, float]:
    """Median wall and CPU seconds of a call."""
    walls, cores = [], []
    for _ in range(times):
        started, used = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - started)
        cores.append(time.process_time() - used)
    return statistics.median(walls), statistics.median(cores)


if __name__ == "__main__":
    main()
