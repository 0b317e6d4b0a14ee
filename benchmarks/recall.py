"""Benchmark: recall@10 of the index at the search settings that a recall report names, on sample and real vectors."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.real_vectors import AbsentError, Floats, glove_vectors, minilm_vectors
from benchmarks.report import Section
from benchmarks.search_data import sample_table, vector_table
from benchmarks.search_tables import NAMES, exact_ms, kinds_of, measured_table
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.figures import Evaluation, SearchSettings
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.table.database import Database

GRID = (
    *(SearchSettings(ef) for ef in (64, 128, 256, 512, 1024, 2048)),
    *(SearchSettings(ef, multiplier=5) for ef in (64, 256, 1024, 2048)),
    *(SearchSettings(2048, multiplier) for multiplier in (20, 90)),
)

TARGET, TARGETS = 0.95, {"image_to_image": 0.99}
"""LAION_RECALL_TARGET and LAION_RECALL_TARGETS of this benchmark. They decide which settings a recall report names."""

GOALS = {"image_to_image": 0.99, "text_to_image": 0.95}
GOAL_ROWS = 200_000
"""Up to this many sample rows in one part, the targets are goals. With more rows, figures have no goals."""

ABOUT = """\
{parameters}. Each table is one part. There are {queries} queries per kind: rows that are not in the measured copy of
the table, and rows of the table itself. Recall@10 compares distances with those of the exact neighbours in the same
rows, so that ties count as found. The settings named are those that a recall report names: the fastest of the grid
whose lower bound (bootstrap, 95 %) reaches the target. The target is 0.95 (LAION_RECALL_TARGET), and 0.99 for
image→image (LAION_RECALL_TARGETS). If no settings reach the target, those with the highest recall are named. One half
of the queries chooses the settings, and the other half gives the figures."""

HEAD = ["vectors", "kind", "target", "settings named", "recall@10", "p50 ms", "exact p50 ms", "at ef 64, plain"]


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks recall`."""
    options = parser(__doc__, "recall")
    options.add_argument("--rows", type=int, nargs="*", default=[200_000], help="sample rows, one table each")
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters())
    options.add_argument("--queries", type=int, default=100)
    options.add_argument("--real", nargs="*", choices=("glove", "minilm"), default=["glove", "minilm"])
    options.add_argument("--real-rows", type=int, default=400_000, help="the highest number of real vectors")
    options.add_argument("--captions", type=Path, help="Parquet file with a column TEXT or caption, for MiniLM")
    given = options.parse_args(arguments)
    about = ABOUT.format(parameters=given.parameters, queries=given.queries)
    with reported("recall", about, given) as report:
        summary = [HEAD]
        for kind in given.real:
            _real(report, given, kind, summary)
        for rows in given.rows:
            name = f"sample, {rows:,} rows"
            with sample_table(report.scratch / f"sample_{rows}", rows, given.parameters, report.say) as db:
                measured = _measured(report, db, name, given.queries)
            goals = GOALS if rows <= GOAL_ROWS else {}
            _summarise(report, summary, name, measured, goals)
    return report.section


def _real(report: GrowingReport, given: argparse.Namespace, kind: str, summary: list[list[str]]) -> None:
    """Measures a set of real vectors, or reports why there is none."""
    makers: dict[str, Callable[[int], Floats]] = {
        "glove": glove_vectors,
        "minilm": partial(minilm_vectors, given.captions),
    }
    try:
        report.say(f"reading {kind}")
        vectors = makers[kind](given.real_rows)
    except AbsentError as error:
        report.note(f"{kind}: left out, {error}.")
        report.say(f"{kind}: left out, {error}")
        return
    name = f"{kind}, {len(vectors):,} of {vectors.shape[1]} dimensions"
    with vector_table(report.scratch / kind, kind, vectors, given.parameters, report.say) as db:
        measured = _measured(report, db, name, given.queries)
    _summarise(report, summary, name, measured, {})


def _measured(report: GrowingReport, db: Database, name: str, queries: int) -> Evaluation:
    """Builds the index, evaluates it, and adds both results to the report."""
    built = build_indexes(db, progress=report.progress(), log=report.say)
    size = index_sizes(built.cover).memory_bytes_a_vector
    cores = built.core_seconds or 0.0
    report.note(f"{name}: {cores:,.0f} core-seconds to build {built.vectors:,} vectors, {size:,.0f} bytes per vector.")
    folder = db.settings.data_dir / "recall"
    folder.mkdir(exist_ok=True)
    targets = {"recall_target": TARGET, "recall_targets": TARGETS}
    db = replace(db, settings=db.settings.model_copy(update=targets))
    evaluation = evaluate(db, RecallPlan(queries, grid=GRID, queries_at_100=0), folder=folder, log=report.say)
    report.table(name, measured_table(evaluation))
    report.evaluation(name, evaluation)
    return evaluation


def _summarise(
    report: GrowingReport, summary: list[list[str]], name: str, evaluation: Evaluation, goals: dict[str, float]
) -> None:
    """Adds the settings of each kind to the table, and figures for the two kinds in `GOALS`."""
    for kind in kinds_of(evaluation):
        target, best = evaluation.target_of(kind), evaluation.chosen(kind)
        plain = next(one for one in evaluation.of_kind(kind) if one.search == SearchSettings(64)).at_10.mean
        times = [f"{best.latency.p50:.1f}", f"{exact_ms(evaluation, kind):.1f}", f"{plain:.3f}"]
        summary.append([name, NAMES[kind], f"{target}", str(best.search), f"{best.at_10.mean:.3f}", *times])
        if kind in GOALS:
            report.figure(
                f"{name}: recall@10 {NAMES[kind]}, {best.search}", best.at_10.mean, sign="≥", goal=goals.get(kind)
            )
    report.section.tables = {"Settings named": summary, **report.section.tables}
    report.save()


if __name__ == "__main__":
    main()
