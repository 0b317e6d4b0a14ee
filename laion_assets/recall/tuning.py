"""Tries HNSW parameters, and other ways to store vectors, on a sample of the table. It changes nothing in the table."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from laion_assets.dataset import Dataset
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import build_indexes, say_nothing
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import scan_trial, stored_forms, trial_table, with_parameters
from laion_assets.progress import Log
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.exact import true_neighbours
from laion_assets.recall.figures import Evaluation, Latency, Recall, SearchSettings
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.judge import meets_target
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.unseen import UnseenQueries, kept_out_queries, rows_kept_out
from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions, require_table

PAGE_PARAMETERS = IndexParameters("bf16", 64, 256)
"""The parameters of ClickHouse's LAION page: the reference in every trial."""

DEFAULT_PARAMETERS = (
    PAGE_PARAMETERS,
    IndexParameters("bf16", 32, 128),
    IndexParameters("bf16", 16, 64),
    IndexParameters("f16", 16, 64),
    IndexParameters("f32", 16, 64),
    IndexParameters("i8", 32, 128),
    IndexParameters("i8", 16, 64),
    IndexParameters("b1", 32, 128),
    IndexParameters("b1", 16, 64),
)

TRIAL_GRID = (
    *(SearchSettings(ef) for ef in (64, 256, 512, 1024, 2048)),
    *(SearchSettings(ef, multiplier) for multiplier in (2, 5) for ef in (512, 1024, 2048)),
    *(SearchSettings(2048, multiplier) for multiplier in (20, 90)),
)
"""Search settings of a trial. ef_search decides what the graph finds. The number of rescored candidates decides how
much of the loss from few bits is recovered."""

GROWTH = 0.16
"""Core seconds a row grow as this power of the part's rows: measured was 1.57 times from 60,000 to a million rows."""


@dataclass(frozen=True)
class TuningPlan:
    """The size and layout of the sample, and the parameters to try.

    `rows` are in `partitions` parts. Recall falls with the rows of a part and rises with the number of parts, so choose
    the layout that the table will have. More rows are drawn, left out of the trial and asked as queries: one half of
    the `queries` of a kind chooses search settings, the other half is reported. `granularities` are rows a granule,
    since rescoring reads whole granules; an empty tuple means the table's own.
    """

    rows: int = 50_000
    partitions: int = 1
    parameters: Sequence[IndexParameters] = DEFAULT_PARAMETERS
    granularities: Sequence[int] = ()
    grid: Sequence[SearchSettings] = TRIAL_GRID
    queries: int = 100
    seed: int = 0
    other_forms: bool = True


@dataclass(frozen=True)
class Trial:
    """One set of parameters: the cost of its build, its size, and what it found."""

    parameters: IndexParameters
    granularity: int
    core_seconds_a_million: float | None
    seconds: float
    disk_bytes_a_vector: float
    memory_bytes_a_vector: float
    evaluation: Evaluation

    @property
    def recall(self) -> float:
        """Recall@10 of the worst kind of query at its chosen search settings, the cheapest that meet the target."""
        return min(self.evaluation.chosen(kind.kind).at_10.mean for kind in self.evaluation.kinds)

    @property
    def recall_low(self) -> float:
        """The lowest of the lower bounds at these settings."""
        return min(self.evaluation.chosen(kind.kind).at_10.low for kind in self.evaluation.kinds)

    @property
    def best_recall(self) -> float:
        """Recall@10 of the worst kind of query at the search settings with the highest recall."""
        kinds = (self.evaluation.of_kind(kind.kind) for kind in self.evaluation.kinds)
        return min(max(one.at_10.mean for one in measured) for measured in kinds)

    @property
    def meets_target(self) -> bool:
        """Whether every kind of query reaches the target."""
        return all(meets_target(self.evaluation, kind.kind) for kind in self.evaluation.kinds)

    @property
    def latency_ms(self) -> float:
        """Median latency of the slowest kind at its chosen search settings."""
        return max(self.evaluation.chosen(kind.kind).latency.p50 for kind in self.evaluation.kinds)

    @property
    def build_cost(self) -> float:
        """The cost by which trials are compared: core-seconds a million vectors, or wall seconds on a server."""
        return self.seconds if self.core_seconds_a_million is None else self.core_seconds_a_million

    def __str__(self) -> str:
        return f"{self.parameters}, granularity {self.granularity}"


@dataclass(frozen=True)
class FormTrial:
    """Another stored form, image→image: recall@10 and latency of a scan, or why the engine refused it."""

    name: str
    experimental: bool
    bytes_a_vector: float
    recall: Recall | None
    latency: Latency | None
    refused: str


@dataclass(frozen=True)
class Tuning:
    """All trials. `dataset_vectors` is the number of vectors of a full load, both columns together."""

    rows: int
    partitions: int
    rows_a_shard: float
    dataset_vectors: float
    trials: list[Trial]
    forms: list[FormTrial] = field(default_factory=list)

    @property
    def front(self) -> list[Trial]:
        """The Pareto front: trials for which no other is better in build cost, bytes in memory and recall at once."""
        return [one for one in self.trials if not any(_beats(other, one) for other in self.trials)]

    @property
    def cheapest(self) -> Trial | None:
        """The trial with the least build cost of those that meet the target."""
        return min((one for one in self.trials if one.meets_target), key=lambda one: one.build_cost, default=None)

    @property
    def smallest(self) -> Trial | None:
        """The trial with the least memory of those that meet the target."""
        enough = (one for one in self.trials if one.meets_target)
        return min(enough, key=lambda one: (one.memory_bytes_a_vector, one.build_cost), default=None)

    def build_core_hours(self, trial: Trial) -> float | None:
        """An estimate of core-hours for the whole dataset; None on a server, whose CPU time we cannot measure."""
        if trial.core_seconds_a_million is None:
            return None
        growth: float = (self.rows_a_shard / (self.rows / self.partitions)) ** GROWTH
        return trial.core_seconds_a_million * growth * self.dataset_vectors / 1e6 / 3600

    def memory_gb(self, trial: Trial) -> float:
        """Memory of both indexes over the whole dataset, in 1e9 bytes."""
        return trial.memory_bytes_a_vector * self.dataset_vectors / 1e9


def tune(db: Database, plan: TuningPlan, *, log: Log | None = None) -> Tuning:
    """Tries the whole plan in a scratch table, which is always removed. Raises `TableError`."""
    require_table(db)
    say = log or say_nothing
    states = partitions(db)
    loaded = sum(state.rows for state in states)
    kept_out = rows_kept_out(plan.queries)
    rows, rows_a_shard = min(plan.rows, max(loaded - kept_out, 1)), loaded / max(len(states), 1)
    parts = min(plan.partitions, rows)
    trials: list[Trial] = []
    forms: list[FormTrial] = []
    for granularity in plan.granularities or (db.settings.index_granularity,):
        with (
            tempfile.TemporaryDirectory() as folder,
            trial_table(
                db,
                rows=rows,
                partitions=parts,
                seed=plan.seed,
                index_granularity=granularity,
                parameters=plan.parameters[0],
                kept_out=kept_out,
            ) as table,
        ):
            queries = kept_out_queries(db, table, plan.queries, plan.seed)
            for parameters in plan.parameters:
                trials.append(_trial(queries, plan, parameters, granularity, Path(folder)))
                last = trials[-1]
                say(f"{last}: recall@10 {last.best_recall:.3f}, {last.memory_bytes_a_vector:.0f} bytes a vector")
            if plan.other_forms and not forms:
                forms = _other_forms(queries, Path(folder))
    dataset = db.settings.dataset
    return Tuning(rows, parts, rows_a_shard, _vectors(dataset, rows_a_shard), trials, forms)


def _trial(
    queries: UnseenQueries, plan: TuningPlan, parameters: IndexParameters, granularity: int, folder: Path
) -> Trial:
    table = with_parameters(queries.db, parameters)
    report = build_indexes(table)
    search = RecallPlan(queries=plan.queries, seed=plan.seed, grid=plan.grid, queries_at_100=0)
    sizes = index_sizes(report.cover)
    return Trial(
        parameters,
        granularity,
        report.core_seconds_a_million,
        report.seconds,
        sizes.disk_bytes_a_vector,
        sizes.memory_bytes_a_vector,
        evaluate(table, search, unseen=replace(queries, db=table), folder=folder),
    )


def _other_forms(asked: UnseenQueries, folder: Path) -> list[FormTrial]:
    table, queries = asked.db, asked.sets[0]
    (truth,) = true_neighbours(table, [queries], 10, folder).neighbours
    results = []
    for form in stored_forms(table.settings.dataset.dimension):
        trial = scan_trial(table, form, queries.vectors, queries.own_rows, 10)
        recall = latency = None
        if not trial.refused:
            recall = HitCounter(table, queries, truth, enumerate(trial.ids)).recall(trial.ids, 10)
            latency = Latency.of(trial.seconds)
        results.append(FormTrial(form.name, form.experimental, trial.bytes_a_vector, recall, latency, trial.refused))
    return results


def _vectors(dataset: Dataset, rows_a_shard: float) -> float:
    rows = sum(dataset.known_rows(shard) or rows_a_shard for shard in dataset.shards)
    return rows * len(dataset.vector_columns)


def _beats(one: Trial, other: Trial) -> bool:
    """Whether `one` is at least as good as `other` in everything, and better in something."""
    first = (one.build_cost, one.memory_bytes_a_vector, -one.best_recall)
    second = (other.build_cost, other.memory_bytes_a_vector, -other.best_recall)
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def recommended_settings(trial: Trial) -> dict[str, str]:
    """The variables that give the table these parameters."""
    return {
        "LAION_HNSW_QUANTIZATION": trial.parameters.quantization,
        "LAION_HNSW_M": str(trial.parameters.m),
        "LAION_HNSW_EF_CONSTRUCTION": str(trial.parameters.ef_construction),
        "LAION_INDEX_GRANULARITY": str(trial.granularity),
    }


def tuning_folder(settings: Settings) -> Path:
    """The folder of the plot in the store."""
    return settings.data_dir / "recall"
