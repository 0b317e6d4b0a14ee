"""Benchmark: search by cells and codes compared with exact search and graphs, for growing rows and partitions.

It measures recall, the cost of a search, and the cost of a build.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.alone import GrowingReport, index_parameters, parser, reported, shape
from benchmarks.cells_ways import EXACT, Figures, Way, ask, cells_ways, graph_ways
from benchmarks.real_vectors import AbsentError
from benchmarks.report import Section
from benchmarks.search_data import sample_table, vector_table
from benchmarks.search_truth import real_vectors
from laion_assets.index.cells.build import CellsReport, build_cells
from laion_assets.index.cells.schema import code_bytes, code_dimension
from laion_assets.index.cells.verify import cells_bytes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import with_parameters
from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.recall.plot import blank_plot, png_of
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.cells import require_cells
from laion_assets.searching.cells_settings import CANDIDATES, default_probes
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

TARGET = 0.95
UNSEEN_SHARD = 407
"""The queries are rows of this shard, which is in no table."""

KINDS: tuple[tuple[By, By], ...] = (("image", "image"), ("text", "image"), ("text", "text"), ("image", "text"))
MOST_BUILD_CORE_SECONDS, MOST_CODE_BYTES = 60.0, 140.0
TIMES_FASTER = {1_000_000: 4.0, 4_000_000: 8.0}
"""By rows of the table: how many times faster than exact search the cells should be from that number of rows on."""

ABOUT = """\
Sample rows (512 dimensions) in equal partitions. There are {queries} queries of each of the four kinds, from a shard
that is not loaded. Recall@10 counts a found row if it is no farther than the tenth true neighbour. ± is half of the
95 % interval of the mean. CPU milliseconds are those of this process, in which the engine runs. p50 is wall time, which
other work on the machine makes longer. *Rows* is the share of the column's rows that the engine read (its counter
SelectedRows), with the candidates and the granules of the answer. MB are those of SelectedBytes, which does not count
graphs. Cells are searched with the default number of clusters, with half of it and with twice as many. Graphs are
searched with the first settings of a list whose lower bound of recall is {target} or more. The table *Growth* shows the
recall of the worst kind and the mean cost of all kinds."""

HEAD = ["rows × partitions", "kind", "method", "recall@10", "CPU ms", "p50 ms", "rows %", "MB"]
GROWTH_HEAD = ["rows × partitions", "method", "recall@10, worst kind", "CPU ms", "p50 ms", "rows %", "MB"]
BUILD_HEAD = [
    "rows × partitions", "column", "what", "training core-s", "core-s per million vectors", "bytes on disk per vector",
    "bytes in memory or page cache per vector",
]  # fmt: skip


class _Of(NamedTuple):
    """The table that is measured: its rows, its partitions, and the origin of its vectors if they are not samples."""

    rows: int
    partitions: int
    vectors: str = ""

    def __str__(self) -> str:
        return f"{self.rows:,} × {self.partitions}{self.vectors and f' ({self.vectors})'}"


_Asked = list[tuple[str, By, Vectors, npt.NDArray[np.float64]]]
"""For each kind: the kind's name, the column that is searched, the query vectors (q, d), and the distance of each
query's tenth neighbour (q,)."""


@dataclass
class _Tables:
    """The report's tables so far, and the figures of the default settings by shape and method."""

    report: GrowingReport
    searches: list[list[str]] = field(default_factory=lambda: [HEAD])
    builds: list[list[str]] = field(default_factory=lambda: [BUILD_HEAD])
    growth: dict[tuple[_Of, str], list[Figures]] = field(default_factory=dict)

    def search(self, of: _Of, kind: str, way: Way, found: Figures, *, named: bool) -> None:
        """Adds one row. With `named`, the row also represents its method in the table *Growth*."""
        share = 100 * found.rows_read / of.rows
        self.searches.append([str(of), kind, way.name, _recall(found), *_costs(found, share)])
        if named:
            self.growth.setdefault((of, way.method), []).append(found)
        self.report.raw(f"{of}, {kind}, {way.name}", vars(found))
        rows = [[str(at), name, *_mean(at.rows, figures)] for (at, name), figures in self.growth.items()]
        self.report.table("Growth", [GROWTH_HEAD, *rows])
        self.report.table("Searches", self.searches)


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks cells`."""
    options = parser(__doc__, "cells")
    options.add_argument(
        "--shapes", type=shape, nargs="*", default=[(40_000, 1), (200_000, 1)], help="ROWSxPARTITIONS of each table"
    )
    options.add_argument("--queries", type=int, default=100, help="of each kind")
    options.add_argument("--exact", type=int, default=10, help="exact searches that are timed for each kind")
    options.add_argument(
        "--candidates",
        type=int,
        nargs="+",
        default=[CANDIDATES],
        help="candidates per neighbour that are ranked by their stored vectors",
    )
    options.add_argument("--graphs", type=index_parameters, nargs="*", default=[], help="such as i8,16,64 bf16,16,64")
    options.add_argument("--graph-rows", type=int, default=200_000, help="no graph is built for tables with more rows")
    options.add_argument(
        "--real", nargs="*", choices=("glove", "minilm"), default=[], help="real vectors that are measured too"
    )
    options.add_argument("--captions", type=Path, help="Parquet file with a column TEXT or caption, for MiniLM")
    options.add_argument("--plot", type=Path, help="a PNG of CPU time by rows")
    given = options.parse_args(arguments)
    with reported("cells", ABOUT.format(queries=given.queries, target=TARGET), given) as report:
        tables = _Tables(report)
        unseen = report.scratch / "unseen"
        write_sample_shard(unseen, UNSEEN_SHARD, given.queries)
        for of in (_Of(*given_shape) for given_shape in given.shapes):
            folder = report.scratch / f"{of.rows}x{of.partitions}"
            with sample_table(folder, of.rows, IndexParameters(), report.say, partitions=of.partitions) as db:
                _build(tables, db, of)
                _measure(tables, db, of, given, list(_questions(db, unseen)))
            if given.plot:
                given.plot.write_bytes(_plot(tables))
        for name in given.real:
            _measure_real(tables, name, given)
    return report.section


def _measure_real(tables: _Tables, name: str, given: argparse.Namespace) -> None:
    """Measures a table of real vectors. Some of the vectors are the queries and are not in the table. If there are no
    real vectors, it reports why."""
    report = tables.report
    try:
        real = real_vectors(name, given.captions, given.queries)
    except AbsentError as error:
        report.note(f"{name}: left out, {error}.")
        return
    of = _Of(len(real.vectors), 1, name)
    ((_, vectors),) = real.queries.items()
    ((_, tenth),) = real.tenth.items()
    with vector_table(report.scratch / name, name, real.vectors, IndexParameters(), report.say) as db:
        _build(tables, db, of)
        _measure(tables, db, of, given, [("image", "image", vectors, 1 - tenth)])


def _build(tables: _Tables, db: Database, of: _Of) -> None:
    report = tables.report
    for built in build_cells(db, progress=report.progress(), log=report.say):
        _tell_build(tables, db, of, built)


def _measure(tables: _Tables, db: Database, of: _Of, given: argparse.Namespace, asked: _Asked) -> None:
    report = tables.report
    worst = 1.0
    for query, by, vectors, farthest in asked:
        kind, live = f"{query}→{by}", require_cells(db, by)
        found = ask(db, by, vectors[: given.exact], farthest, EXACT)
        tables.search(of, kind, EXACT, found, named=True)
        probes, methods = default_probes(live.clusters, live.rows), set()
        for way in cells_ways(probes, live.clusters, given.candidates):
            found = ask(db, by, vectors, farthest, way)
            tables.search(of, kind, way, found, named=way.method not in methods)
            methods.add(way.method)
            if (
                way.settings is not None
                and way.method == ("cells" if probes else "codes")
                and way.settings.probes in (probes, 0)
            ):
                worst = min(worst, found.low)
    report.figure(f"{of}: worst kind at the defaults, lower bound of recall@10", worst, goal=TARGET)
    _tell_speed(tables, of)
    for parameters in given.graphs if of.rows <= given.graph_rows else ():
        _measure_graphs(tables, with_parameters(db, parameters), of, f"graph {parameters}", asked)
    if given.graphs and of.rows > given.graph_rows:
        report.note(f"{of}: no graphs were built, since the table has more rows than --graph-rows.")


def _questions(db: Database, unseen: Path) -> Iterator[tuple[str, By, Vectors, npt.NDArray[np.float64]]]:
    """The queries of each kind, from a shard that is not loaded, for the columns of the sample."""
    for query, by in KINDS:
        short = "img" if query == "image" else query
        vectors = np.load(unseen / f"{short}_emb" / f"{short}_emb_{UNSEEN_SHARD}.npy").astype(np.float32)
        truth = nearest_by_blocks(db, by, vectors, np.full(len(vectors), -1, np.int64), 10)
        yield query, by, vectors, truth.distances[:, -1]


def _measure_graphs(
    tables: _Tables,
    db: Database,
    of: _Of,
    name: str,
    asked: _Asked,
) -> None:
    """Builds graphs with these parameters in the table itself, replacing earlier graphs."""
    report = tables.report
    built = build_indexes(db, progress=report.progress(), log=report.say)
    cores = (built.core_seconds or 0.0) / max(built.vectors, 1) * 1e6
    size = IndexParameters.of(db.settings).bytes_a_vector(db.settings.dataset.dimension)
    tables.builds.append([str(of), "both", name, "", f"{cores:.1f}", f"{size:.0f}", f"{size:.0f}"])
    report.table("Build", tables.builds)
    for query, by, vectors, farthest in asked:
        tried = []
        for way in graph_ways(name):
            tried.append((ask(db, by, vectors, farthest, way), way))
            if tried[-1][0].low >= TARGET:
                break
        else:
            tried.sort(key=lambda one: one[0].low)
        tables.search(of, f"{query}→{by}", tried[-1][1], tried[-1][0], named=True)


def _tell_build(tables: _Tables, db: Database, of: _Of, built: CellsReport) -> None:
    report, cores, size = tables.report, built.core_seconds_a_million or 0.0, code_bytes(code_dimension(db))
    tables.builds.append(
        [
            *(str(of), built.by, f"{built.generation.clusters:,} cells", f"{built.training_core_seconds or 0:.1f}"),
            *(f"{cores:.1f}", f"{cells_bytes(db, built.by) / of.rows:.0f}", f"{size:.0f}"),
        ]
    )
    report.table("Build", tables.builds)
    name = f"{of}, {built.by}: core-seconds per million vectors, without training"
    report.figure(name, cores, sign="≤", goal=MOST_BUILD_CORE_SECONDS, form=".1f")
    report.figure(f"{of}: bytes of codes per vector", size, sign="≤", goal=MOST_CODE_BYTES, form=".0f")


def _tell_speed(tables: _Tables, of: _Of) -> None:
    """Reports how many times faster than exact search the cells are, by CPU time and by wall time, for the worst
    kind."""
    exact, cells = tables.growth[of, "exact"], tables.growth.get((of, "cells"))
    goal = max((times for rows, times in TIMES_FASTER.items() if of.rows >= rows), default=None)
    if cells:
        for name, unit in (("p50_ms", "p50"), ("cpu_ms", "CPU time")):
            times = min(vars(one)[name] / vars(other)[name] for one, other in zip(exact, cells, strict=True))
            tables.report.figure(f"{of}: times faster than exact search, by {unit}", times, goal=goal, form=".1f")


def _recall(found: Figures) -> str:
    return f"{found.recall:.3f} ± {found.half_interval:.3f}"


def _costs(found: Figures, share: float) -> list[str]:
    return [f"{found.cpu_ms:.0f}", f"{found.p50_ms:.0f}", f"{share:.1f}", f"{found.megabytes:.1f}"]


def _mean(rows: int, figures: list[Figures]) -> list[str]:
    """The worst kind's recall, and the mean of the kinds' costs."""
    worst = min(figures, key=lambda one: one.low)
    means = {name: float(np.mean([vars(one)[name] for one in figures])) for name in vars(worst)}
    mean = Figures(**means)
    return [_recall(worst), *_costs(mean, 100 * mean.rows_read / rows)]


def _plot(tables: _Tables) -> bytes:
    """A plot of CPU milliseconds per search by rows: a line for each method in tables of one partition, points for
    tables of more partitions."""
    figure, axes = blank_plot()
    names = list(dict.fromkeys(name for _, name in tables.growth))
    for place, method in enumerate(names):
        mean = {of: float(np.mean([one.cpu_ms for one in of_kind])) for (of, name), of_kind in tables.growth.items()
                if name == method and not of.vectors}  # fmt: skip
        line = sorted((of.rows, cpu) for of, cpu in mean.items() if of.partitions == 1)
        axes.plot([x for x, _ in line], [y for _, y in line], marker="o", color=f"C{place}", label=method)
        for (rows, partitions, _), cpu in mean.items():
            if partitions > 1:
                axes.plot([rows], [cpu], marker="^", color=f"C{place}")
                axes.annotate(f"× {partitions}", (rows, cpu), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows (triangles: more than one partition, whose number is given)")
    axes.set_ylabel("CPU ms per search, mean of four kinds of query")
    axes.legend(fontsize=7)
    return png_of(figure)
