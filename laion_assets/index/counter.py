"""Counts the graphs that ClickHouse searched, by its own counter. EXPLAIN is no proof: it names unused indexes, too."""

from __future__ import annotations

from laion_assets.table.database import Database


def graphs_searched(db: Database, events: str = "system.events") -> int:
    """Graphs searched since the start of the servers whose events table is `events`."""
    (count,) = db.one(f"SELECT sum(value) FROM {events} WHERE event = 'USearchSearchCount'")
    return int(count)
