"""Counts how many graphs ClickHouse has searched, by its own counter: EXPLAIN names an index that is not used, too."""

from __future__ import annotations

from laion_assets.table.database import Database


def graphs_searched(db: Database, events: str = "system.events") -> int:
    """How many graphs were searched since the servers started whose `events` these are."""
    (count,) = db.one(f"SELECT sum(value) FROM {events} WHERE event = 'USearchSearchCount'")
    return int(count)
