"""The record of changes to the cells. It decides which rows of the cells count. This module changes no cell.

Rows of a shard are written into the cells with a new load number, and count from the moment when one row of this record
says that they do. That row is one INSERT, which is atomic. So a search sees the old rows of a shard or the new ones,
and a process may die at any moment before or after. Rows that never count are found by their load number and deleted
later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from laion_assets.index.cells.held import has_centroids, whole_loads
from laion_assets.index.cells.schema import cells_table, centroids_table, events_table
from laion_assets.table.database import Database
from laion_assets.table.parts import PartitionContent, contents_of_tables
from laion_assets.table.vectors import By

Event = Literal["trained", "begun", "live", "gone", "current", "dropped"]
"""trained: a generation's centroids are complete. begun: rows of a load may be in the cells. live: these rows are the
shard's (a load without rows: the shard has none). gone: the load's rows were deleted. current: searches use the
generation. dropped: the generation has no rows any more."""


NO_ROWS = PartitionContent(0, 0, 0)
"""Of an event that is about no shard."""


@dataclass(frozen=True)
class Entry:
    """One row of the record. `source` has the files of the shard in the table, and the rows of the load in the cells.
    `distance` is the mean cosine distance of a load's rows to their centroids."""

    number: int
    event: Event
    generation: int
    load: int = 0
    source: PartitionContent = NO_ROWS
    clusters: int = 0
    distance: float = 0.0
    at: datetime | None = None


@dataclass(frozen=True)
class Generation:
    """One set of centroids: how many, and the mean cosine distance of the training rows to them."""

    number: int
    clusters: int
    distance: float
    trained_rows: int


@dataclass(frozen=True)
class Record:
    """All that was recorded about the cells of one vector column, oldest first."""

    entries: list[Entry]

    @property
    def trained(self) -> dict[int, Generation]:
        """The trained generations, by number."""
        return {
            one.generation: Generation(one.generation, one.clusters, one.distance, one.source.rows)
            for one in self.entries
            if one.event == "trained"
        }

    @property
    def current(self) -> Generation | None:
        """The generation that searches use. None if its training is not in the record: parts of the record are not
        synced, so a loss of power may take some of its rows."""
        number = next((one.generation for one in reversed(self.entries) if one.event == "current"), None)
        return None if number is None else self.trained.get(number)

    @property
    def newest(self) -> Generation | None:
        """The generation that was trained last: the current one, or the one that is being filled."""
        return max(self.trained.values(), key=lambda one: one.number, default=None)

    @property
    def last_number(self) -> int:
        """The greatest number that a generation ever had, 0 if there was none. A number is used only once: loads of a
        generation whose training is lost must not count in another."""
        return max((one.generation for one in self.entries), default=0)

    def live(self, generation: int) -> dict[int, Entry]:
        """By shard, the load whose rows count in a generation; a removed shard has a load without rows."""
        entries = (one for one in self.entries if one.event == "live" and one.generation == generation)
        return {one.source.shard: one for one in entries}

    def dead(self, before: datetime) -> dict[int, list[int]]:
        """By generation, the loads whose rows do not count and may be deleted.

        A load that was replaced after `before` is left out: a search that began earlier may still read it.
        """
        gone = {one.load for one in self.entries if one.event == "gone"}
        dropped = {one.generation for one in self.entries if one.event == "dropped"}
        live: dict[tuple[int, int], list[Entry]] = {}
        for one in self.entries:
            if one.event == "live":
                live.setdefault((one.generation, one.source.shard), []).append(one)
        dead: dict[int, list[int]] = {}
        for begun in self.entries:
            if begun.event != "begun" or begun.generation in dropped or begun.load in gone:
                continue
            of_shard = live.get((begun.generation, begun.source.shard), [])
            later = [one for one in of_shard if one.number > begun.number]
            counted = any(one.load == begun.load for one in later)
            if not counted or any(one.load != begun.load and (one.at is None or one.at < before) for one in later):
                dead.setdefault(begun.generation, []).append(begun.load)
        return dead

    def outdated(self, before: datetime) -> list[int]:
        """Generations with rows that no search uses any more, or that no search ever used."""
        current = self.current
        if current is None:
            return []
        since = max((one.at for one in self.entries if one.event == "current" and one.at is not None), default=before)
        dropped = {one.generation for one in self.entries if one.event == "dropped"}
        known = {one.generation for one in self.entries}
        return [number for number in sorted(known - dropped) if number < current.number and since <= before]


@dataclass(frozen=True)
class LiveCells:
    """What a search must know: the generation, the loads whose rows count, and the shards to scan in the table.

    `scanned` are the loaded shards whose rows are not in the cells, or not all of them, or that were changed since.
    `clusters` is 1 if centroids are missing, so that a search reads all rows; `lost_centroids` tells so.
    """

    generation: int
    clusters: int
    rows: int
    loads: tuple[int, ...]
    scanned: tuple[int, ...]
    lost_centroids: bool = False


def read_record(db: Database, by: By) -> Record:
    """The whole record of a vector column. Raises `TableError`."""
    rows = db.rows(
        "SELECT number, event, generation, load, shard, rows, content, clusters, distance, at "
        f"FROM {db.name_of(events_table(db))} WHERE vectors = {{vectors:String}} ORDER BY number",
        parameters={"vectors": by},
    )
    return Record(
        [
            Entry(
                int(number),
                event,
                int(generation),
                int(load),
                PartitionContent(int(shard), int(count), int(content)),
                int(clusters),
                float(distance),
                at,
            )
            for number, event, generation, load, shard, count, content, clusters, distance, at in rows
        ]
    )


def record(db: Database, by: By, event: Event, generation: int, **facts: object) -> int:
    """Adds one row to the record, in one INSERT, and returns its number. Only the holder of the lease may call this.

    A load that begins gets this number as its load number, unless `load` gives another.
    """
    table = db.name_of(events_table(db))
    (last,) = db.one(f"SELECT max(number) FROM {table}")
    number = int(last) + 1
    source = facts.get("source")
    placed = source if isinstance(source, PartitionContent) else NO_ROWS
    values = {
        "vectors": by,
        "number": number,
        "event": event,
        "generation": generation,
        "load": facts.get("load", number if event == "begun" else 0),
        **{"shard": placed.shard, "rows": placed.rows},
        "content": placed.content,
        "clusters": facts.get("clusters", 0),
        "distance": facts.get("distance", 0.0),
    }
    kinds = (
        "String",
        "UInt64",
        "String",
        "UInt32",
        "UInt64",
        "UInt16",
        "UInt64",
        "UInt64",
        "UInt32",
        "Float64",
    )
    given = ", ".join(f"{{{name}:{kind}}}" for name, kind in zip(values, kinds, strict=True))
    db.command(f"INSERT INTO {table} ({', '.join(values)}) SELECT {given}", parameters=values)
    return number


def live_cells(db: Database, by: By) -> LiveCells | None:
    """What a search of the cells reads now; None before the first build, and if the record has lost the training of
    the generation. Raises `TableError` without the tables."""
    # A plain statement: with argMax and a subquery for the generation, analysing the statement took 20 ms.
    rows = db.rows(
        "SELECT event, generation, clusters, load, shard, rows, content "
        f"FROM {db.name_of(events_table(db))} WHERE vectors = '{by}' AND event IN ('trained', 'live', 'current') "
        "ORDER BY number DESC LIMIT 1 BY event, generation, shard"
    )
    current = next((int(row[1]) for row in rows if row[0] == "current"), None)
    if current is None:
        return None
    own = [row for row in rows if int(row[1]) == current]
    clusters = next((int(row[2]) for row in own if row[0] == "trained"), None)
    if clusters is None:
        return None
    latest = {int(row[4]): (int(row[3]), PartitionContent(*map(int, row[4:]))) for row in own if row[0] == "live"}
    held = contents_of_tables(db, db.settings.table, cells_table(db, by), centroids_table(db))
    found = held[db.settings.table]
    unchanged = {load: source for load, source in latest.values() if is_unchanged(source, found)}
    wanted = {load: source.rows for load, source in unchanged.items()}
    whole = whole_loads(db, by, current, wanted, held[cells_table(db, by)].get(current))
    covered = {unchanged[load].shard for load in whole}
    has_all = has_centroids(db, by, current, clusters, held[centroids_table(db)].get(0))
    return LiveCells(
        generation=current,
        clusters=clusters if has_all else 1,
        rows=sum(found[shard].rows for shard in covered),
        loads=tuple(sorted(whole)),
        scanned=tuple(shard for shard in sorted(found) if shard not in covered),
        lost_centroids=not has_all,
    )


def is_unchanged(source: PartitionContent, found: dict[int, PartitionContent]) -> bool:
    """Whether a recorded shard has the files that the table has now. The record has the rows in the cells, where
    `found` also counts rows that are marked as deleted."""
    now = found.get(source.shard)
    return now is not None and now.content == source.content


def rows_of_loads(live: LiveCells) -> str:
    """The condition that a row of the cells counts."""
    return f"cells_generation = {live.generation} AND cells_load IN ({', '.join(map(str, live.loads)) or 'NULL'})"


def shards_to_exchange(live: dict[int, Entry], found: dict[int, PartitionContent]) -> tuple[list[int], list[int]]:
    """Shards whose rows in the cells are missing or older than the table's, and shards that the table lost."""
    wrong = [shard for shard in found if shard not in live or not is_unchanged(live[shard].source, found)]
    lost = [shard for shard, entry in live.items() if shard not in found and entry.source.rows]
    return sorted(wrong), sorted(lost)


def rows_of(entries: Iterable[Entry]) -> int:
    """The number of rows of these loads."""
    return sum(entry.source.rows for entry in entries)
