"""One judgement of health, as checks and commands show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from laion_assets.errors import EngineHeldError
from laion_assets.table.schema import PartitionState

TableLook = list[PartitionState] | EngineHeldError
"""The table's partitions, or who holds the embedded engine, so that they could not be looked at."""

NAMED = 5
"""Shards that a finding names; the others are counted."""


@dataclass(frozen=True)
class Finding:
    """One judgement: its check's name, whether all is well (None: it could not be told), what was seen in one line, and
    the figures behind it by name, which Dagster plots over time."""

    check: str
    passed: bool | None
    seen: str
    figures: Mapping[str, float] = field(default_factory=dict)


def naming(said: list[str]) -> str:
    """The first few of several statements, and how many more there are."""
    more = len(said) - NAMED
    return "; ".join(said[:NAMED]) + (f"; and {more} more" if more > 0 else "")
