"""What became of one shard of a load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What became of one shard: rows in the table, seconds, and why it failed."""

    shard: int
    rows: int
    seconds: float
    error: str = ""
    skipped: bool = False
