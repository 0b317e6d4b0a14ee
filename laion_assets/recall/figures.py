"""The figures of an evaluation, kept as JSON in the store, and the search settings that follow. It measures nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from laion_assets.search.statement import MAX_LIMIT
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing

FILE_NAME = "recall.json"


@dataclass(frozen=True)
class SearchSettings:
    """ClickHouse's settings of a search: ef_search, and candidates a neighbour that are ranked by their stored vectors.

    `multiplier` 0 means no rescoring: the index's own distances count.
    """

    ef: int
    multiplier: int = 0

    def pairs(self, limit: int = 10) -> tuple[tuple[str, object], ...]:
        """For `SearchRequest.settings` of a search of this limit, within ClickHouse's 1,000 candidates a search."""
        plain = ("hnsw_candidate_list_size_for_search", self.ef)
        if not self.multiplier:
            return (plain, ("vector_search_with_rescoring", 0))
        return (
            plain,
            ("vector_search_with_rescoring", 1),
            ("vector_search_index_fetch_multiplier", float(self.multiplier_for(limit))),
        )

    def multiplier_for(self, limit: int) -> int:
        """Candidates a neighbour for a search of this limit, within the same bound; 0 without rescoring."""
        return min(self.multiplier, max(1, MAX_LIMIT // limit))

    def __str__(self) -> str:
        return f"ef {self.ef}" + (f", rescoring × {self.multiplier}" if self.multiplier else "")


@dataclass(frozen=True)
class Recall:
    """Recall over a query set: mean, 5th percentile and minimum by distance with ties, and the mean by id."""

    mean: float
    p5: float
    minimum: float
    by_id: float

    @classmethod
    def of(cls, by_distance: npt.NDArray[np.float64], by_id: npt.NDArray[np.float64]) -> Recall:
        """From the recall of each query, (q,)."""
        return cls(
            float(by_distance.mean()),
            float(np.percentile(by_distance, 5)),
            float(by_distance.min()),
            float(by_id.mean()),
        )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single searches, as their caller sees them."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """From the seconds of each search."""
        p50, p95, p99 = (float(value) for value in np.percentile(np.array(seconds) * 1000, [50, 95, 99]))
        return cls(p50, p95, p99)


@dataclass(frozen=True)
class Measurement:
    """One kind of query at one setting. `at_100` is None where it was not asked for."""

    kind: str
    search: SearchSettings
    at_10: Recall
    at_100: Recall | None
    latency: Latency


@dataclass(frozen=True)
class KindSummary:
    """One kind of query: how many, how many of them have 10 copies of themselves in the table, and exact latency."""

    kind: str
    queries: int
    all_copies: int
    exact: Latency


@dataclass(frozen=True)
class Evaluation:
    """All of one evaluation. `exact_seconds` is what the true neighbours took, unless they came from the store."""

    rows: int
    shards: list[int]
    index: str
    target: float
    tolerance: float
    seed: int
    exact_seconds: float
    exact_from_store: bool
    seconds: float
    kinds: list[KindSummary]
    measurements: list[Measurement]
    targets: dict[str, float] = field(default_factory=dict)
    """Of kinds whose target is not `target`."""

    def target_of(self, kind: str) -> float:
        """The recall@10 that this kind is to reach."""
        return self.targets.get(kind, self.target)

    def of_kind(self, kind: str) -> list[Measurement]:
        """The measurements of one kind."""
        return [measured for measured in self.measurements if measured.kind == kind]

    def chosen(self, kind: str) -> Measurement:
        """The fastest that meets the target at recall@10; where none does, the one with the highest recall."""
        measured = self.of_kind(kind)
        enough = [one for one in measured if one.at_10.mean >= self.target_of(kind)]
        if enough:
            return min(enough, key=lambda one: one.latency.p50)
        return max(measured, key=lambda one: (one.at_10.mean, -one.latency.p50))

    def meets_target(self, kind: str) -> bool:
        """Whether some setting reaches the target for this kind."""
        return self.chosen(kind).at_10.mean >= self.target_of(kind)

    def speedup(self, kind: str) -> float:
        """Exact search's median latency over that of the chosen settings."""
        exact = next(summary.exact.p50 for summary in self.kinds if summary.kind == kind)
        return exact / self.chosen(kind).latency.p50


def recall_folder(settings: Settings) -> Path:
    """Where an evaluation's files are in the store."""
    return settings.data_dir / "recall"


def save_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Writes `recall.json`; its path. Raises `StoreError`."""
    path = folder / FILE_NAME
    names = [summary.kind for summary in evaluation.kinds]
    facts = asdict(evaluation) | {
        "chosen": {name: asdict(evaluation.chosen(name).search) for name in names},
        "meets_target": {name: evaluation.meets_target(name) for name in names},
    }
    with replacing(path, subject=FILE_NAME) as temporary:
        temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return path


def read_evaluation(folder: Path) -> Evaluation | None:
    """The last evaluation that was saved in this folder; None without one, or with one of another make."""
    try:
        facts = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        facts.pop("chosen")
        facts.pop("meets_target")
        facts["kinds"] = [KindSummary(**kind | {"exact": Latency(**kind["exact"])}) for kind in facts["kinds"]]
        facts["measurements"] = [
            Measurement(
                one["kind"],
                SearchSettings(**one["search"]),
                Recall(**one["at_10"]),
                Recall(**one["at_100"]) if one["at_100"] else None,
                Latency(**one["latency"]),
            )
            for one in facts["measurements"]
        ]
        return Evaluation(**facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_search_settings(folder: Path) -> dict[str, SearchSettings]:
    """The chosen settings of each kind of query, by name such as `text_to_image`; none without an evaluation.

    `folder` is the one that the evaluation was saved in: `recall_folder(settings)`.
    """
    evaluation = read_evaluation(folder)
    if evaluation is None:
        return {}
    return {summary.kind: evaluation.chosen(summary.kind).search for summary in evaluation.kinds}
