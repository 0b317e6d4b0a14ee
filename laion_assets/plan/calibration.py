"""The measured costs of shards, indexes and searches on one machine, and the file that keeps them. Measures nothing."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path

from laion_assets.index.parameters import IndexParameters
from laion_assets.machine import Machine, available_cores
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing

MEASUREMENTS = "2"
"""Our own number of what a calibration measures: raise it when the model needs other measurements."""

SHARD_STAGES = ("fetch", "merge", "load", "checks")
"""Stages of one shard's run. `checks` is all of the run outside its steps: asset checks, and Dagster itself."""


@dataclass(frozen=True)
class ShardCost:
    """One shard's run: seconds, core seconds and peaks of resident memory by stage, and the bytes that it left."""

    rows: int
    seconds: dict[str, float]
    core_seconds: dict[str, float]
    peak_bytes: dict[str, int]
    merged_bytes: int
    table_bytes: int


@dataclass(frozen=True)
class IndexCost:
    """Building both indexes of `parts` parts of `rows` rows each, 512 dimensions."""

    rows: int
    parts: int
    seconds: float
    core_seconds: float
    peak_bytes: int
    memory_bytes_a_vector: float


@dataclass(frozen=True)
class SearchCost:
    """Searches of a table of `parts` parts and `rows` rows in all, in seconds: a search by the index (median), one of
    the many searches of a recall report (mean), and the true neighbours of all queries of the report."""

    rows: int
    parts: int
    search: float
    report_search: float
    true_neighbours: float


@dataclass(frozen=True)
class ExactCost:
    """An exact search over `rows` rows, in seconds (median)."""

    rows: int
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """One calibration: when (Unix time), on which machine, with which settings, and how many seconds it took; and its
    measurements of each kind, the smallest first.

    Shards have two sizes and a third between them, which tells how far off the model is. Indexes have three sizes. The
    other kinds have two.  `note` has what to know about a calibration that ships with
    the package, which may lack the third measurements.
    """

    made_at: float
    machine: Machine
    index: IndexParameters
    settings: dict[str, str]
    shards: list[ShardCost]
    indexes: list[IndexCost]
    searches: list[SearchCost]
    exact: list[ExactCost]
    seconds: float
    shipped: bool = False
    note: str = ""

    def is_of(self, settings: Settings) -> bool:
        """Whether it was made on this machine, with these versions and settings; false for one that ships."""
        same = self.index == IndexParameters.of(settings) and self.settings == relevant_settings(settings)
        return same and not self.shipped and self.machine == Machine.here()

    def __str__(self) -> str:
        note = f" ({self.note})" if self.note else ""
        return f"{time.strftime('%Y-%m-%d', time.gmtime(self.made_at))} on {self.machine}{note}"


def relevant_settings(settings: Settings) -> dict[str, str]:
    """The settings that change the costs, besides the index's parameters, and what is measured."""
    return {
        "measurements": MEASUREMENTS,
        "vector_codec": settings.vector_codec,
        "index_build_threads": str(settings.index_build_threads or available_cores()),
        "index_granularity": str(settings.index_granularity),
        "recall_queries": str(settings.recall_queries),
    }


def calibration_path(settings: Settings) -> Path:
    """The path of the calibration in the store."""
    return settings.data_dir / "plan" / "calibration.json"


def keep_calibration(calibration: Calibration, path: Path) -> None:
    """Writes it as JSON. Raises `StoreError`."""
    with replacing(path, subject="calibration") as temporary:
        temporary.write_text(json.dumps(asdict(calibration), indent=1), encoding="utf-8")


def read_calibration(path: Path) -> Calibration | None:
    """The calibration that was kept; None if there is none, or if its format is different."""
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reference_calibration() -> Calibration:
    """The calibration in the package, of a machine of two cores, for plans on a machine without one of its own."""
    text = (resources.files("laion_assets.plan") / "reference.json").read_text(encoding="utf-8")
    return replace(_parsed(text), shipped=True)


def _parsed(text: str) -> Calibration:
    facts = json.loads(text)
    return Calibration(
        **facts
        | {
            "machine": Machine(**facts["machine"]),
            "index": IndexParameters(**facts["index"]),
            "shards": [ShardCost(**cost) for cost in facts["shards"]],
            "indexes": [IndexCost(**cost) for cost in facts["indexes"]],
            "searches": [SearchCost(**cost) for cost in facts["searches"]],
            "exact": [ExactCost(**cost) for cost in facts["exact"]],
        }
    )
