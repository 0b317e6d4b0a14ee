"""Benchmark: cells and codes against exact search as a table grows: recall, CPU time, bytes read, build."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.alone import GrowingReport, parser, reported
from benchmarks.report import Section
from benchmarks.search_data import sample_table
from laion_assets.index.cells.build import CellsReport, build_cells
from laion_assets.index.cells.schema import code_bytes, code_dimension
from laion_assets.index.cells.verify import cells_bytes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.cells import require_cells, search_cells
from laion_assets.searching.cells_settings import CellsSettings, default_probes
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

TARGET = 0.95
UNSEEN_SHARD = 409
"""Whose rows are asked with and are in no table."""

TOLERANCE = 5e-6
"""Distances of the engine and of the matrix product are float32, each within 1e-6 of the truth."""

MOST_BUILD_CORE_SECONDS = 60.0
MOST_CODE_BYTES = 140.0

ABOUT = """\
Sample rows (512 dimensions) in one partition; {queries} queries of each of the four kinds, from a shard that is not
loaded. Recall@10 counts rows at most as far as the tenth true neighbour; ± is half of the 95 % interval of the mean.
CPU milliseconds are those of this process, in which the engine runs; p50 is wall time, which other work on the machine
makes longer. *Rows* is the share of the column's rows that the engine read, by its counter SelectedRows, the
candidates and the answer's granules included; MB are those of SelectedBytes."""

HEAD = ["rows", "kind", "method", "recall@10", "CPU ms", "p50 ms", "rows %", "MB"]
BUILD_HEAD = [
    "rows", "column", "clusters", "training core-s", "core-s a million vectors", "bytes on disk a vector",
    "code bytes a vector",
]  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One way to search, with its settings; none of them is exact search."""

    name: str
    settings: CellsSettings | None


@dataclass(frozen=True)
class Figures:
    """What a way gave for one kind of query: means over its queries."""

    recall: float
    half_interval: float
    cpu_ms: float
    p50_ms: float
    rows_read: float
    megabytes: float


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks cells`."""
    options = parser(__doc__, "cells")
    options.add_argument("--rows", type=int, nargs="+", default=[40_000, 200_000], help="of each table")
    options.add_argument("--queries", type=int, default=100, help="of each kind")
    options.add_argument("--exact", type=int, default=10, help="exact searches that are timed a kind")
    options.add_argument(
        "--candidates", type=int, nargs="+", default=[50], help="ranked by stored vectors, a neighbour"
    )
    given = options.parse_args(arguments)
    with reported("cells", ABOUT.format(queries=given.queries), given) as report:
        searches, builds = [HEAD], [BUILD_HEAD]
        for rows in given.rows:
            folder = report.scratch / str(rows)
            with sample_table(folder, rows, IndexParameters(), report.say) as db:
                for built in build_cells(db, progress=report.progress(), log=report.say):
                    _tell_build(report, db, rows, built, builds)
                _measure(report, db, rows, given, searches)
    return report.section


def _tell_build(report: GrowingReport, db: Database, rows: int, built: CellsReport, table: list[list[str]]) -> None:
    cores, size = built.core_seconds_a_million or 0.0, code_bytes(code_dimension(db))
    table.append(
        [
            *(f"{rows:,}", built.by, f"{built.generation.clusters:,}", f"{built.training_core_seconds or 0:.1f}"),
            *(f"{cores:.1f}", f"{cells_bytes(db, built.by) / rows:.0f}", f"{size:.0f}"),
        ]
    )
    report.table("Build", table)
    name = f"{rows:,} rows, {built.by}: core seconds a million vectors, beside training"
    report.figure(name, cores, sign="≤", goal=MOST_BUILD_CORE_SECONDS, form=".1f")
    report.figure(f"{rows:,} rows: bytes of codes a vector", size, sign="≤", goal=MOST_CODE_BYTES, form=".0f")


def _measure(report: GrowingReport, db: Database, rows: int, given: argparse.Namespace, table: list[list[str]]) -> None:
    """Every kind of query, at the default clusters, at half and twice as many, and by codes alone."""
    folder = report.scratch / "unseen"
    write_sample_shard(folder, UNSEEN_SHARD, given.queries)
    kinds: list[tuple[By, By]] = [("image", "image"), ("text", "image"), ("text", "text"), ("image", "text")]
    worst = 1.0
    for query, by in kinds:
        short = "img" if query == "image" else query
        vectors = np.load(folder / f"{short}_emb" / f"{short}_emb_{UNSEEN_SHARD}.npy").astype(np.float32)
        truth = nearest_by_blocks(db, by, vectors, np.full(len(vectors), -1, np.int64), 10).distances[:, -1]
        live = require_cells(db, by)
        probes = default_probes(live.clusters, live.rows)
        ways = [Way("exact", None)]
        for candidates in given.candidates:
            for factor in (0.5, 1, 2) if probes else ():
                settings = CellsSettings(math.ceil(probes * factor), candidates)
                if settings.probes < live.clusters:
                    ways.append(Way(f"cells, {settings.probes} of {live.clusters}, × {candidates}", settings))
            ways.append(Way(f"codes, × {candidates}", CellsSettings(0, candidates)))
        for way in ways:
            asked = given.exact if way.settings is None else given.queries
            found = _ask(db, by, vectors[:asked], truth, way)
            table.append(_row(rows, f"{query}→{by}", way, found, live.rows))
            report.table("Searches", table)
            report.raw(f"{rows} rows, {query}→{by}, {way.name}", vars(found))
            if way.settings == CellsSettings(probes, given.candidates[0]):
                worst = min(worst, found.recall - found.half_interval)
    report.figure(f"{rows:,} rows: worst kind at the defaults, lower bound of recall@10", worst, goal=TARGET)


def _ask(
    db: Database, by: By, vectors: Vectors, truth: np.ndarray[tuple[int], np.dtype[np.float64]], way: Way
) -> Figures:
    recalls, seconds = [], []
    request = SearchRequest(by=by, exact=way.settings is None)
    _one(db, vectors[0], request, way)
    rows, size, cores = *_counters(db), time.process_time()
    for vector, farthest in zip(vectors, truth, strict=False):
        distances, took = _one(db, vector, request, way)
        recalls.append(sum(distance <= farthest + TOLERANCE for distance in distances) / 10)
        seconds.append(took)
    cores = time.process_time() - cores
    rows_now, size_now = _counters(db)
    count = len(recalls)
    return Figures(
        recall=float(np.mean(recalls)),
        half_interval=float(1.96 * np.std(recalls, ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        cpu_ms=1e3 * cores / count,
        p50_ms=1e3 * median(seconds),
        rows_read=(rows_now - rows) / count,
        megabytes=(size_now - size) / count / 1e6,
    )


def _one(db: Database, vector: Vectors, request: SearchRequest, way: Way) -> tuple[list[float], float]:
    result = search(db, vector, request) if way.settings is None else search_cells(db, vector, request, way.settings)
    return [neighbour.distance for neighbour in result.neighbours], result.seconds


def _counters(db: Database) -> tuple[int, int]:
    """Rows and bytes that the engine has read since it was opened."""
    rows, size = db.one(
        "SELECT sumIf(value, event = 'SelectedRows'), sumIf(value, event = 'SelectedBytes') FROM system.events"
    )
    return int(rows), int(size)


def _row(rows: int, kind: str, way: Way, found: Figures, all_rows: int) -> list[str]:
    return [
        *(f"{rows:,}", kind, way.name, f"{found.recall:.3f} ± {found.half_interval:.3f}", f"{found.cpu_ms:.0f}"),
        *(f"{found.p50_ms:.0f}", f"{100 * found.rows_read / all_rows:.1f}", f"{found.megabytes:.1f}"),
    ]
