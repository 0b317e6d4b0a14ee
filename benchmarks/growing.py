"""Measured program: loads tiny shards, indexes them, searches them, looks at their state. It compares nothing."""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from dagster import DagsterRunStatus
from rich.console import Console

from benchmarks.stage import StageReport
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.cover import index_cover
from laion_assets.table.index import build_indexes
from laion_assets.table.load import load_partition
from laion_assets.table.search import SearchRequest, search
from laion_assets.table.vectors import draw_rows, vectors_of
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.status import read_status
from laion_assets_tests.automation.recorded import Recorder

ROWS = 200
"""Of a tiny shard."""

SEARCHES = 50
FIELDS = {"hnsw_m": 8, "hnsw_ef_construction": 32, "index_first": 1_000_000}
"""A graph of 200 rows: what is measured is all that is not the graph."""


def main() -> None:
    """`python -m benchmarks.growing fill|load|index|look FOLDER [FIRST COUNT]`: FOLDER has `tiny.toml`."""
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
    """Partitions as a load makes them, and in Dagster's history a run and the materializations of each."""
    make_instance(folder / "dagster")
    store = ShardStore(settings.data_dir, settings.dataset)
    with dagster_instance() as instance, connect(settings) as db:
        recorder = Recorder(instance, settings)
        for shard in shards:
            fetch_shard(settings, shard, store.raw_folder)
            load_partition(db, merge_shard(store, shard, max_bad_fraction=0.01))
            store.remove_raw(shard)
            recorder.load(shard, rows=ROWS)
            recorder.run(shard, DagsterRunStatus.SUCCESS)


def _load(settings: Settings, folder: Path, shards: range, report: StageReport) -> None:
    """Each shard by a call of its own, as `laion-assets load N` makes it."""
    make_instance(folder / "dagster")
    console = Console(file=io.StringIO())
    walls, cores = [], []
    with dagster_instance() as instance:
        for shard in shards:
            started, used = time.perf_counter(), time.process_time()
            if not load(settings, [shard], instance, console, again=False):
                raise RuntimeError(f"shard {shard} was not loaded")
            walls.append(time.perf_counter() - started)
            cores.append(time.process_time() - used)
    report.say(walls=walls, cores=cores)


def _index(settings: Settings, report: StageReport) -> None:
    with connect(settings) as db:
        cover, cover_cores = _median(lambda: index_cover(db), 3)
        built = build_indexes(db)
    report.say(
        partitions=len(built.shards),
        seconds=built.seconds,
        cores=built.core_seconds,
        cover=cover,
        cover_cores=cover_cores,
    )


def _look(settings: Settings, folder: Path, report: StageReport) -> None:
    """Median seconds of a search by the index, an exact one, and of the state that `laion-assets status` reads."""
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
