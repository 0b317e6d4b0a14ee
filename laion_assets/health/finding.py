"""One judgement of health, which checks and commands show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from laion_assets.errors import EngineHeldError
from laion_assets.table.schema import PartitionState

TableLook = list[PartitionState] | EngineHeldError
"""The table's partitions; or the process that holds the embedded engine, if they could not be read."""

NAMED = 5
"""How many shards a finding names; the others are counted."""


@dataclass(frozen=True)
class Finding:
    """One judgement: its check's name, whether all is well (None: unknown), what was found in one line, and the figures
    behind it by name, which Dagster plots over time."""

    check: str
    passed: bool | None
    seen: str
    figures: Mapping[str, float] = field(default_factory=dict)


def naming(said: list[str]) -> str:
    """The first few of several statements, and the number of the others."""
    more = len(said) - NAMED
    return "; ".join(said[:NAMED]) + (f"; and {more} more" if more > 0 else "")
