"""The cost of searches besides time: CPU time of the process and bytes that the engine read. It searches nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from laion_assets.table.database import Database


@dataclass(frozen=True)
class Cost:
    """Means of one search: CPU milliseconds over all threads, and bytes by the engine's counter SelectedBytes, which
    counts bytes of columns but not of graphs."""

    cpu_ms: float
    bytes_read: float


def measured_cost(db: Database, searches: Callable[[], list[float]]) -> tuple[list[float], Cost | None]:
    """Returns the result of `searches`, which is the seconds of each search, and the mean cost of one. The cost is None
    on a server, whose counters include other clients' searches. Raises what `searches` raises."""
    if not db.embedded:
        return searches(), None
    read, used = _bytes_read(db), time.process_time()
    seconds = searches()
    used, count = time.process_time() - used, max(len(seconds), 1)
    return seconds, Cost(1000 * used / count, (_bytes_read(db) - read) / count)


def _bytes_read(db: Database) -> int:
    (count,) = db.one("SELECT sum(value) FROM system.events WHERE event = 'SelectedBytes'")
    return int(count)
