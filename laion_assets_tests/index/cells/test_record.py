"""Tests of the record of changes to the cells: which loads do not count, also among tens of thousands of shards."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

from laion_assets.index.cells.events import Entry, Record
from laion_assets.table.parts import PartitionContent

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def loaded(number: int, shard: int, at: datetime) -> list[Entry]:
    """The entries of a load that counts: it began as entry `number`, which is the load's number."""
    source = PartitionContent(shard, 1_000, number)
    begun = Entry(number, "begun", 1, number, source, at=at)
    return [begun, Entry(number + 1, "live", 1, number, source, at=at)]


def test_loads_that_do_not_count_are_found_among_tens_of_thousands_in_a_second() -> None:
    shards = 20_000
    entries = [Entry(1, "trained", 1), Entry(2, "current", 1)]
    for shard in range(shards):
        entries += loaded(3 + 2 * shard, shard, NOW - timedelta(days=1))
    last = 3 + 2 * shards
    entries += loaded(last, 7, NOW - timedelta(hours=1))
    entries += loaded(last + 2, 8, NOW + timedelta(hours=1))
    entries.append(Entry(last + 4, "begun", 1, last + 4, PartitionContent(9, 1_000, 1)))
    started = time.process_time()
    dead = Record(entries).dead(NOW)
    assert time.process_time() - started < 5, "a comparison of each load with each entry takes a minute"
    assert dead == {1: [3 + 2 * 7, last + 4]}, "shard 8 was replaced a moment ago: a search may still read its old load"
