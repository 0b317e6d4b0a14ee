"""Benchmark: how long a search takes, by index and exact, with the same rows in one partition and in many."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.report import Section
from benchmarks.search_data import sample_table
from benchmarks.search_tables import NAMES, exact_ms, kinds_of, measured_table, named
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import trial_table
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.figures import Evaluation, Measurement, SearchSettings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.unseen import kept_out_queries, rows_kept_out
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database

PLAIN = SearchSettings(64)
GRID = (PLAIN, *(SearchSettings(ef) for ef in (128, 256, 512, 1024)), SearchSettings(256, multiplier=5))
TARGET = 0.95
GOALS = {1: 10.0, 5: 5.0}
"""By partitions: how many times faster than exact search a search by index should be."""

ABOUT = """\
Sample rows (512 dimensions) in equal partitions of one part each, in one process. There are {queries} queries per kind.
Searches run one at a time, and the time is that which the caller sees. *Times faster* is the median time of exact
search divided by that of the fastest settings of the grid with recall@10 of {target} or more. If no settings reach this
recall, those with the highest recall are used. The engine's own counter proved that a search used as many graphs as
there are partitions. Main tables: {rows:,} rows, {parameters}. Sweep over partitions: {sweep_rows:,} rows,
{sweep_parameters}."""

SWEEP_HEAD = [
    "partitions", "rows per partition", "exact ms", "ef 64, plain: recall@10", "ef 64, plain: ms",
    "ef 64, search in one partition: ms",
    f"fastest with recall ≥ {TARGET}", "its recall@10", "its ms", "times faster",
]  # fmt: skip


@dataclass(frozen=True)
class _Shape:
    """One table's evaluation, and the median milliseconds of searches that are limited to one partition."""

    rows: int
    partitions: int
    evaluation: Evaluation
    pruned_ms: float


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks latency`."""
    options = parser(__doc__, "latency")
    options.add_argument("--rows", type=int, default=500_000, help="rows of the main tables; 0 for none")
    options.add_argument("--partitions", type=int, nargs="+", default=[1, 5], help="partitions of the main tables")
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters())
    options.add_argument("--sweep-rows", type=int, default=200_000, help="rows of each table of the sweep; 0 for none")
    options.add_argument("--sweep", type=int, nargs="+", default=[1, 5, 20, 50], help="partitions in the sweep")
    options.add_argument("--sweep-parameters", type=index_parameters, default=IndexParameters("bf16", 16, 64))
    options.add_argument("--queries", type=int, default=100)
    given = options.parse_args(arguments)
    largest = max([given.parameters, given.sweep_parameters], key=lambda one: one.bytes_a_vector(512))
    with (
        reported("latency", ABOUT.format(target=TARGET, **vars(given)), given) as report,
        sample_table(
            report.scratch, max(given.rows, given.sweep_rows) + rows_kept_out(given.queries), largest, report.say
        ) as db,
    ):
        if given.sweep_rows:
            _sweep(report, db, given)
        if given.rows:
            _main_tables(report, db, given)
    return report.section


def _main_tables(report: GrowingReport, db: Database, given: argparse.Namespace) -> None:
    for partitions in given.partitions:
        shape = _measured(report, db, (given.rows, partitions), given.parameters, given.queries)
        for kind in kinds_of(shape.evaluation):
            best = named(shape.evaluation, kind, TARGET)
            exact = exact_ms(shape.evaluation, kind)
            report.figure(
                f"{NAMES[kind]}, {_partitions(partitions)}: times faster than exact ({exact:.0f} ms), {best.search}, "
                f"recall@10 {best.at_10.mean:.3f}",
                exact / best.latency.p50,
                sign="≥",
                goal=GOALS.get(partitions),
                form=".1f",
            )
        report.table(f"{given.rows:,} rows in {_partitions(partitions)}", measured_table(shape.evaluation))


def _sweep(report: GrowingReport, db: Database, given: argparse.Namespace) -> None:
    """Measures equal rows in more and more partitions, and the cost of one more partition."""
    shapes: list[_Shape] = []
    for partitions in given.sweep:
        shapes.append(_measured(report, db, (given.sweep_rows, partitions), given.sweep_parameters, given.queries))
        for kind in ("image_to_image", "text_to_image"):
            rows = [SWEEP_HEAD, *(_sweep_row(shape, kind) for shape in shapes)]
            report.table(f"{given.sweep_rows:,} rows in ever more partitions, {NAMES[kind]}", rows)
    if len(shapes) > 1:
        report.note(_explained(shapes))


def _measured(
    report: GrowingReport, db: Database, shape: tuple[int, int], parameters: IndexParameters, queries: int
) -> _Shape:
    """Copies rows into a table of that shape, indexes and measures it.

    Raises `RuntimeError` when a search scans rows instead of using every graph.
    """
    rows, partitions = shape
    name = f"{rows:,} rows in {_partitions(partitions)}, {parameters}"
    report.say(f"copying {name}")
    with trial_table(
        db, rows=rows, partitions=partitions, seed=0, index_granularity=db.settings.index_granularity,
        parameters=parameters, kept_out=rows_kept_out(queries),
    ) as table:  # fmt: skip
        build_indexes(table, progress=report.progress(), log=report.say if partitions == 1 else None)
        plan, unseen = RecallPlan(queries, grid=GRID, queries_at_100=0), kept_out_queries(db, table, queries, 0)
        evaluation = evaluate(table, plan, unseen=unseen, folder=report.scratch, log=report.say)
        vectors = unseen.sets[0].vectors
        use = index_use(table, vectors[0], SearchRequest(settings=PLAIN.pairs()))
        if use.fault or use.searches != partitions:
            raise RuntimeError(f"{name}: {use.fault or f'{use.searches} graphs searched, expected {partitions}'}")
        request = SearchRequest(limit=11, settings=PLAIN.pairs(), shards=(0,))
        pruned = float(np.median([search(table, vector, request).seconds for vector in vectors])) * 1000
    report.evaluation(name, evaluation)
    report.raw(f"{name}, one partition searched", {"p50_ms": pruned})
    return _Shape(rows, partitions, evaluation, pruned)


def _sweep_row(shape: _Shape, kind: str) -> list[str]:
    evaluation = shape.evaluation
    plain, best, exact = _plain(shape, kind), named(evaluation, kind, TARGET), exact_ms(evaluation, kind)
    return [
        f"{shape.partitions}",
        f"{shape.rows // shape.partitions:,}",
        f"{exact:.1f}",
        f"{plain.at_10.mean:.3f}",
        f"{plain.latency.p50:.1f}",
        f"{shape.pruned_ms:.1f}" if kind == "image_to_image" else "",
        str(best.search),
        f"{best.at_10.mean:.3f}",
        f"{best.latency.p50:.1f}",
        f"{exact / best.latency.p50:.1f}",
    ]


def _plain(shape: _Shape, kind: str) -> Measurement:
    """The measurement at ef 64 without rescoring."""
    return next(one for one in shape.evaluation.of_kind(kind) if one.search == PLAIN)


def _explained(shapes: list[_Shape]) -> str:
    """A note with the fixed cost of a search and the cost of each further partition, by straight lines through the
    medians."""
    kind = "image_to_image"
    partitions = [shape.partitions for shape in shapes]
    slope, start = np.polyfit(partitions, [_plain(shape, kind).latency.p50 for shape in shapes], 1)
    pruned = [shape.pruned_ms for shape in shapes]
    recalls = [_plain(shape, "text_to_image").at_10.mean for shape in shapes]
    exact_slope, exact = np.polyfit(partitions, [exact_ms(shape.evaluation, kind) for shape in shapes], 1)
    return (
        f"Explanation (image→image, straight lines through the medians): a search by index at ef 64 costs "
        f"{start:.1f} ms plus {slope:.2f} ms for each partition, since the graph of every partition is searched and "
        f"its answers are read. Exact search costs {exact:.1f} ms plus {exact_slope:.2f} ms for each partition. It "
        f"reads the same rows for any number of partitions. A search in one partition uses one graph and took "
        f"{min(pruned):.1f} to {max(pruned):.1f} ms. Every graph gives its own candidates, so recall depends on the "
        f"number of partitions: text→image recall@10 at ef 64 is {recalls[0]:.3f} with {_partitions(partitions[0])} "
        f"and {recalls[-1]:.3f} with {partitions[-1]}."
    )


def _partitions(number: int) -> str:
    return "one partition" if number == 1 else f"{number} partitions"


if __name__ == "__main__":
    main()
