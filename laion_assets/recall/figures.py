"""The figures of an evaluation, kept as JSON in the store. It measures and judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from laion_assets.recall.cost import Cost
from laion_assets.recall.interval import mean_interval
from laion_assets.searching.method_statements import SERVER_LIMIT
from laion_assets.searching.request import METHODS, MethodName
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing

BEYOND = 5
"""A percentile is given only if at least this many figures lie beyond it: p95 of 100 searches, p99 of 500."""


@dataclass(frozen=True)
class SearchSettings:
    """Search settings: ef_search, and the number of candidates a neighbour that are ranked by their stored vectors.

    `multiplier` 0 means no rescoring: the index's own distances are used. `ef` is for HNSW. `probes`, the number of
    clusters to search, is for methods that have clusters. A setting that a method does not have is 0.
    """

    ef: int = 0
    multiplier: int = 0
    probes: int = 0

    def pairs(self, limit: int = 10) -> tuple[tuple[str, object], ...]:
        """ClickHouse's settings for a search by HNSW with this limit; a search has at most 1,000 candidates."""
        plain = ("hnsw_candidate_list_size_for_search", self.ef)
        if not self.multiplier:
            return (plain, ("vector_search_with_rescoring", 0))
        return (
            plain,
            ("vector_search_with_rescoring", 1),
            ("vector_search_index_fetch_multiplier", float(self.multiplier_for(limit))),
        )

    def multiplier_for(self, limit: int) -> int:
        """Candidates a neighbour for a search with this limit, with the same maximum; 0 without rescoring."""
        return min(self.multiplier, max(1, SERVER_LIMIT // limit))

    def __str__(self) -> str:
        words = [f"ef {self.ef}"] if self.ef else []
        words += [f"{self.probes} clusters"] if self.probes else []
        words += [f"rescoring × {self.multiplier}"] if self.multiplier else []
        return ", ".join(words) or "plain"


@dataclass(frozen=True)
class Recall:
    """Recall over a query set: mean, 5th percentile and minimum by distance with ties, and the mean by id.

    `low` and `high` are the bounds of the mean's bootstrap interval of 95 %, over `queries` queries.
    """

    mean: float
    p5: float
    minimum: float
    by_id: float
    low: float
    high: float
    queries: int

    @classmethod
    def of(cls, by_distance: npt.NDArray[np.float64], by_id: npt.NDArray[np.float64]) -> Recall:
        """The recall over all queries, from that of each query, (q,)."""
        low, high = mean_interval(by_distance)
        return cls(
            mean=float(by_distance.mean()),
            p5=float(np.percentile(by_distance, 5)),
            minimum=float(by_distance.min()),
            by_id=float(by_id.mean()),
            low=low,
            high=high,
            queries=len(by_distance),
        )

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single searches, as their caller sees them. A percentile is None if too few were timed."""

    p50: float
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """The latency, from the seconds of each search."""

        def percentile(share: float) -> float | None:
            enough = len(seconds) * (100 - share) >= 100 * BEYOND
            return float(np.percentile(np.array(seconds) * 1000, share)) if enough else None

        return cls(float(np.median(seconds)) * 1000, percentile(95), percentile(99))


@dataclass(frozen=True)
class Measurement:
    """One kind of query at one setting. `at_100` is None if it was not asked for.

    `multiplier_at_100` is the number of candidates a neighbour that were rescored for it. A search by graphs has 1,000
    candidates: 10 each for 100 rows, 9 each for 101. `cost` is measured only for chosen settings.
    """

    kind: str
    search: SearchSettings
    at_10: Recall
    at_100: Recall | None
    latency: Latency
    multiplier_at_100: int = 0
    cost: Cost | None = None


@dataclass(frozen=True)
class KindSummary:
    """One kind of query: the queries that chose its settings, and what these settings find for the other queries.

    `chosen` is measured with the reporting half of the queries; `choosing` is the number of queries in the other half.
    `origin` says where the queries come from. `all_copies` counts queries with 10 copies of themselves in the table.
    `exact` is the latency of exact search, `exact_cost` its CPU time and bytes. `cold_ms` is the first search after the
    graphs were dropped from the engine's cache, in milliseconds; None if we may not empty that cache.
    """

    kind: str
    origin: str
    choosing: int
    all_copies: int
    exact: Latency
    cold_ms: float | None
    chosen: Measurement
    exact_cost: Cost | None = None

    @property
    def queries(self) -> int:
        """Number of queries in both halves."""
        return self.choosing + self.chosen.at_10.queries


@dataclass(frozen=True)
class Evaluation:
    """All of one evaluation: the index, its parts, the number of queries, and the figures.

    `index` describes the index. `declared` is each index's type as ClickHouse writes it, by the index's name. `parts`
    are the parts that were measured: the partition and a hash over the files of each, which another load and another
    build change. `exact_seconds` is the time for the true neighbours, unless they came from the store. `measurements`
    are those of the choosing half.
    """

    rows: int
    shards: list[int]
    method: str
    index: str
    declared: dict[str, str]
    parts: list[str]
    target: float
    tolerance: float
    seed: int
    exact_seconds: float
    exact_from_store: bool
    seconds: float
    kinds: list[KindSummary]
    measurements: list[Measurement]
    targets: dict[str, float] = field(default_factory=dict)
    """Targets of kinds whose target is not `target`."""
    bytes_resident: float = 0.0
    """Bytes of graphs, or codes, that must be in memory (or the page cache) for searches as fast as measured."""
    core_seconds_a_million: float | None = None
    """Core seconds a million vectors of the last build; None if they were not recorded."""

    def target_of(self, kind: str) -> float:
        """The recall@10 that this kind should reach."""
        return self.targets.get(kind, self.target)

    def of_kind(self, kind: str) -> list[Measurement]:
        """The measurements of one kind, over its choosing half."""
        return [measured for measured in self.measurements if measured.kind == kind]

    def summary(self, kind: str) -> KindSummary:
        """The summary of one kind. Raises `KeyError`."""
        return {summary.kind: summary for summary in self.kinds}[kind]

    def chosen(self, kind: str) -> Measurement:
        """The figures of the chosen settings, over the reporting half."""
        return self.summary(kind).chosen

    @property
    def named(self) -> dict[str, SearchSettings]:
        """The chosen settings of each kind of query, by name such as `text_to_image`."""
        return {summary.kind: summary.chosen.search for summary in self.kinds}

    def speedup(self, kind: str) -> float:
        """Exact search's median latency over that of the chosen settings."""
        return self.summary(kind).exact.p50 / self.chosen(kind).latency.p50


def recall_folder(settings: Settings) -> Path:
    """The folder of an evaluation's files in the store."""
    return settings.data_dir / "recall"


def evaluation_file(folder: Path, method: str = "graph") -> Path:
    """The path of the last evaluation of a method."""
    return folder / ("recall.json" if method == "graph" else f"recall_{method}.json")


def save_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Writes `recall.json`, or for another method than HNSW `recall_<method>.json`; its path. Raises `StoreError`."""
    path = evaluation_file(folder, evaluation.method)
    with replacing(path, subject=path.name) as temporary:
        temporary.write_bytes(_KEPT.dump_json(evaluation, indent=1))
    return path


def save_evaluations(evaluations: Sequence[Evaluation], folder: Path) -> None:
    """Writes the evaluations of one measurement, and removes those of methods that it did not measure: they would be
    compared with the new ones, and may be about fewer rows or other queries. Raises `StoreError`."""
    for one in evaluations:
        save_evaluation(one, folder)
    for method in {*METHODS} - {one.method for one in evaluations}:
        evaluation_file(folder, method).unlink(missing_ok=True)


def read_evaluation(folder: Path, method: str = "graph") -> Evaluation | None:
    """The last evaluation of a method in this folder; None if there is none, or if its format is different."""
    try:
        return _KEPT.validate_json(evaluation_file(folder, method).read_bytes())
    except (OSError, ValidationError):
        return None


def read_evaluations(folder: Path) -> dict[MethodName, Evaluation]:
    """The last evaluation of every method that has one in this folder."""
    found = {method: read_evaluation(folder, method) for method in METHODS}
    return {method: evaluation for method, evaluation in found.items() if evaluation is not None}


_KEPT: TypeAdapter[Evaluation] = TypeAdapter(Evaluation)
