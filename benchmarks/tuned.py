"""Benchmark: tuned index parameters compared with those of ClickHouse's page: build, bytes, recall, and limits."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from benchmarks.alone import GrowingReport, index_parameters, parser, reported, shape
from benchmarks.report import Section
from benchmarks.search_data import sample_table
from benchmarks.search_tables import KINDS, NAMES, exact_ms, named
from laion_assets.dataset import load_dataset
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import Measurement
from laion_assets.recall.tuning import PAGE_PARAMETERS, TRIAL_GRID, FormTrial, Trial, TuningPlan, tune
from laion_assets.recall.unseen import rows_kept_out
from laion_assets.table.database import Database

TARGET = 0.95
FEWER_CORE_SECONDS, FEWER_BYTES, SMALL_BYTES = 4.0, 2.0, 250.0

ABOUT = """\
Sample rows (512 dimensions, both columns) in a scratch table of equal partitions of one part each. There are {queries}
queries per kind. `recall.tuning` makes each build and search. *Worst recall@10* is that of the worst of the four kinds
of query. Each kind has the fastest search settings with recall of {target} or more, or those with the highest recall if
none reach {target}. Rescoring ranks candidates by the stored vectors. It reads whole granules, so the rows per granule
are varied. *Times faster* is the median of exact search divided by that of these settings, for the kind where it is
least. The reference is {page}, the parameters of ClickHouse's page on LAION-400M, on the same rows in as many
partitions, at the first granularity."""

HEAD = [
    "rows × partitions", "parameters", "rows per granule", "core-s per million vectors", "bytes per vector",
    "GB for all of LAION-400M", "worst recall@10",
    *(f"{NAMES[kind]}: settings, recall@10, ms (exact ms)" for kind in KINDS), "times faster, least", "holds",
]  # fmt: skip

FORMS_HEAD = ["rows × partitions", "stored as", "bytes on disk per row", "recall@10", "p50 ms", ""]


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks tuned`."""
    options = parser(__doc__, "tuned")
    options.add_argument(
        "--shapes", type=shape, nargs="+", help="ROWSxPARTITIONS of each table",
        default=[(200_000, 1), (200_000, 10), (200_000, 40), (40_000, 1)],
    )  # fmt: skip
    options.add_argument(
        "--parameters", type=index_parameters, nargs="+", help="tuned parameters",
        default=[IndexParameters("i8", 16, 64), IndexParameters("b1", 16, 64)],
    )  # fmt: skip
    options.add_argument("--granularities", type=int, nargs="+", default=[512, 64], help="rows per granule")
    options.add_argument(
        "--page-rows", type=int, default=200_000, help="no reference is built for tables with more rows"
    )
    options.add_argument("--other-forms", action="store_true", help="also scan what ClickHouse has beside HNSW")
    options.add_argument("--queries", type=int, default=100)
    given = options.parse_args(arguments)
    about = ABOUT.format(queries=given.queries, target=TARGET, page=PAGE_PARAMETERS)
    rows = max(rows for rows, _ in given.shapes)
    with (
        reported("tuned", about, given) as report,
        sample_table(report.scratch, rows + rows_kept_out(given.queries), PAGE_PARAMETERS, report.say) as db,
    ):
        table, forms = [HEAD], [FORMS_HEAD]
        for one in given.shapes:
            _try_shape(report, db, one, given, table, forms)
    return report.section


def _try_shape(
    report: GrowingReport,
    db: Database,
    one: tuple[int, int],
    given: argparse.Namespace,
    table: list[list[str]],
    forms: list[list[str]],
) -> None:
    """Tries the reference, then the tuned parameters at every granularity. The report is written after each build."""
    rows, partitions = one
    other_forms = given.other_forms
    reference: Trial | None = None
    for granularity in given.granularities:
        with_reference = granularity == given.granularities[0] and rows <= given.page_rows
        for parameters in [*([PAGE_PARAMETERS] if with_reference else []), *given.parameters]:
            report.say(f"{rows:,} rows × {partitions}: {parameters}, granularity {granularity}")
            plan = TuningPlan(
                rows, partitions, [parameters], [granularity], TRIAL_GRID, given.queries, other_forms=other_forms
            )
            tuning = tune(db, plan, log=report.say)
            (trial,) = tuning.trials
            if tuning.forms:
                forms += [_form_row(one, form) for form in tuning.forms]
                report.table("Without HNSW, every row scanned, image→image", forms)
            other_forms = False
            table.append(_row(one, trial))
            report.table("Trials", table)
            report.raw(f"{rows}x{partitions}, {trial}", asdict(trial))
            if parameters == PAGE_PARAMETERS:
                reference = trial
                report.figure(f"{_words(one)}, {trial.parameters}: worst recall@10", worst_recall(trial))
            else:
                _compare(report, one, trial, reference)


def _compare(report: GrowingReport, one: tuple[int, int], trial: Trial, reference: Trial | None) -> None:
    """Adds the figures of one tuned choice, which show whether this table layout reaches its goals."""
    name = f"{_words(one)}, {trial.parameters}, {trial.granularity} rows per granule"
    report.figure(f"{name}: worst recall@10", worst_recall(trial), sign="≥", goal=TARGET)
    report.figure(f"{name}: times faster than exact search, for the slowest kind", _least_speedup(trial), form=".1f")
    small = trial.parameters.quantization == "b1"
    if small:
        report.figure(f"{name}: bytes per vector", trial.memory_bytes_a_vector, sign="≤", goal=SMALL_BYTES, form=".0f")
    if reference is not None:
        cores = (reference.core_seconds_a_million or 0.0) / (trial.core_seconds_a_million or 1.0)
        size = reference.memory_bytes_a_vector / trial.memory_bytes_a_vector
        report.figure(
            f"{name}: times fewer core-seconds than the reference", cores, sign="≥", goal=FEWER_CORE_SECONDS, form=".1f"
        )
        report.figure(f"{name}: times fewer bytes than the reference", size, sign="≥", goal=FEWER_BYTES, form=".2f")


def _row(one: tuple[int, int], trial: Trial) -> list[str]:
    cells = []
    for kind in KINDS:
        best = _best(trial, kind)
        cells.append(
            f"{best.search}, {best.at_10.mean:.3f}, {best.latency.p50:.1f} ({exact_ms(trial.evaluation, kind):.1f})"
        )
    recall, faster = worst_recall(trial), _least_speedup(trial)
    broken = [word for word, bad in (("recall", recall < TARGET), ("slower than exact", faster < 1)) if bad]
    return [
        f"{one[0]:,} × {one[1]}",
        str(trial.parameters),
        f"{trial.granularity}",
        f"{trial.core_seconds_a_million or 0:,.0f}",
        f"{trial.memory_bytes_a_vector:,.0f}",
        f"{trial.memory_bytes_a_vector * _laion_vectors() / 1e9:,.0f}",
        f"{recall:.3f}",
        *cells,
        f"{faster:.1f}",
        f"no: {', '.join(broken)}" if broken else "yes",
    ]


def _form_row(one: tuple[int, int], form: FormTrial) -> list[str]:
    if form.recall is None or form.latency is None:
        found = ["–", "–", "–", f"refused: {form.refused}"]
    else:
        found = [
            f"{form.bytes_a_vector:,.0f}",
            f"{form.recall.mean:.3f}",
            f"{form.latency.p50:.1f}",
            "experimental" if form.experimental else "",
        ]
    return [f"{one[0]:,} × {one[1]}", form.name, *found]


def worst_recall(trial: Trial) -> float:
    """Recall@10 of the worst of the four kinds, each at its best settings."""
    return min(_best(trial, kind).at_10.mean for kind in KINDS)


def _least_speedup(trial: Trial) -> float:
    return min(exact_ms(trial.evaluation, kind) / _best(trial, kind).latency.p50 for kind in KINDS)


def _best(trial: Trial, kind: str) -> Measurement:
    return named(trial.evaluation, kind, TARGET)


def _laion_vectors() -> int:
    """The number of vectors of LAION-400M: all shards, both columns."""
    dataset = load_dataset("laion400m")
    return sum(dataset.known_rows(shard) or 0 for shard in dataset.shards) * len(dataset.vector_columns)


def _words(one: tuple[int, int]) -> str:
    return f"{one[0]:,} rows in {one[1]}"


if __name__ == "__main__":
    main()
