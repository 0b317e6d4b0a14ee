"""Makes the cells of every vector column hold every loaded shard. It writes only what is missing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from laion_assets.index.cells.events import (
    Entry,
    Generation,
    read_record,
    record,
    rows_of,
    shards_to_exchange,
)
from laion_assets.index.cells.exchange import cells_content, exchange_shard, table_content
from laion_assets.index.cells.generations import drop_centroids, read_centroids, train_generation, wants_new_generation
from laion_assets.index.cells.held import has_centroids, rows_by_load
from laion_assets.index.cells.schema import (
    CODEC_SETTINGS,
    cells_table,
    centroids_table,
    create_cells_tables,
    events_table,
    vector_columns,
)
from laion_assets.index.graphs import say_nothing
from laion_assets.progress import Log, Progress
from laion_assets.table.database import Database
from laion_assets.table.hidden_rows import require_every_row
from laion_assets.table.lease import Lease, lease
from laion_assets.table.parts import PartitionContent, contents_of_tables, partition_contents
from laion_assets.table.schema import require_table
from laion_assets.table.vectors import By

MERGED_SHARE = 0.5
"""Layers of parts are merged when all layers but the largest have half as many rows as the largest. So each row is
written about three times while a table grows, and a search reads few layers."""


@dataclass(frozen=True)
class CellsReport:
    """What one call did for one vector column, and the present cells.

    `exchanged` and `removed` are shards. Core seconds are None on a server, where another process does the work.
    """

    by: By
    generation: Generation
    trained: bool
    exchanged: list[int]
    removed: list[int]
    shards: list[int]
    rows: int
    rows_written: int
    training_core_seconds: float | None
    assigning_core_seconds: float | None
    seconds: float

    @property
    def core_seconds_a_million(self) -> float | None:
        """Core seconds a million written vectors, without training; None if none were written, or on a server."""
        if not self.rows_written or self.assigning_core_seconds is None:
            return None
        return self.assigning_core_seconds / self.rows_written * 1e6


def build_cells(db: Database, *, progress: Progress | None = None, log: Log | None = None) -> list[CellsReport]:
    """Trains centroids if there are none that fit the table's size, and exchanges every shard whose rows in the cells
    differ from the table. Returns one report for each vector column.

    The build can be repeated, and interrupted at any moment: finished shards stay, and searches always see each row of
    a shard once. Raises `TableError` when there is no table, when the engine has no codes, or when a shard changes
    during the build.
    """
    require_table(db)
    say = log or say_nothing
    with lease(db.for_long_statements(), "its cells", say=say) as held:
        require_every_row(held.db, "cells, from which all users' searches take their candidates")
        create_cells_tables(held.db)
        return [_Build(held, by, progress, say).run() for by in vector_columns(db)]


class _Build:
    """The build of one vector column."""

    def __init__(self, held: Lease, by: By, progress: Progress | None, log: Log) -> None:
        self._held, self._db = held, held.db
        self._by, self._progress, self._log = by, progress, log

    def run(self) -> CellsReport:
        """Deletes old rows, trains, exchanges shards, switches generations, merges."""
        started, cores = time.perf_counter(), time.process_time()
        self._sweep()
        found = partition_contents(self._db)
        generation, trained = self._generation(found)
        after_training = time.process_time()
        exchanged, removed = self._exchange(generation, found)
        if (current := read_record(self._db, self._by).current) is None or current.number != generation.number:
            self._held.require()
            record(self._db, self._by, "current", generation.number)
            self._log(f"searches by {self._by} use generation {generation.number} now")
        self._merge(generation.number)
        # Each search reads the record: 7 ms if it has many small parts, 3 ms if it has one part.
        self._db.command(f"OPTIMIZE TABLE {self._db.name_of(events_table(self._db))} FINAL", settings={"alter_sync": 2})
        live = self._live(generation)
        embedded = self._db.embedded
        return CellsReport(
            by=self._by,
            generation=generation,
            trained=trained,
            exchanged=exchanged,
            removed=removed,
            shards=sorted(shard for shard, entry in live.items() if entry.source.rows),
            rows=rows_of(live.values()),
            rows_written=sum(found[shard].rows for shard in exchanged),
            training_core_seconds=after_training - cores if embedded else None,
            assigning_core_seconds=time.process_time() - after_training if embedded else None,
            seconds=time.perf_counter() - started,
        )

    def _generation(self, found: dict[int, PartitionContent]) -> tuple[Generation, bool]:
        """The newest generation, which may be partly filled; or a new one if the table has become too large for it."""
        history = read_record(self._db, self._by)
        newest, rows = history.newest, sum(source.rows for source in found.values())
        whole = newest is not None and self._has_centroids(newest)
        if newest is not None and whole and not wants_new_generation(newest, rows):
            return newest, False
        if newest is not None and not whole:
            self._log(f"centroids of generation {newest.number} of the {self._by} cells are missing: a new one is made")
        generation = train_generation(self._db, self._by, found, history, self._progress)
        self._log(f"generation {generation.number}: {generation.clusters:,} {self._by} clusters for {rows:,} rows")
        return generation, True

    def _has_centroids(self, generation: Generation) -> bool:
        table = centroids_table(self._db)
        content = contents_of_tables(self._db, table)[table].get(0)
        return has_centroids(self._db, self._by, generation.number, generation.clusters, content)

    def _lacking(self, generation: Generation, live: dict[int, Entry]) -> list[int]:
        """Shards of which the cells have other rows than the record says."""
        held = rows_by_load(self._db, self._by, generation.number)
        lacking = [shard for shard, entry in live.items() if held.get(entry.load, 0) != entry.source.rows]
        for shard in lacking:
            there, recorded = held.get(live[shard].load, 0), live[shard].source.rows
            self._log(f"shard {shard} has {there:,} rows in the {self._by} cells, where {recorded:,} were written")
        return lacking

    def _exchange(self, generation: Generation, found: dict[int, PartitionContent]) -> tuple[list[int], list[int]]:
        live = self._live(generation)
        wrong, lost = shards_to_exchange(live, found)
        for shard in lost:
            record(self._db, self._by, "live", generation.number, source=PartitionContent(shard, 0, 0))
        wrong = sorted({*wrong, *(found.keys() & self._lacking(generation, live))})
        changed = [shard for shard in wrong if not self._is_the_same(generation, live.get(shard), found[shard])]
        if not changed:
            return [], lost
        centroids = read_centroids(self._db, self._by, generation.number)
        if self._progress is not None:
            self._progress.begin(f"assign {self._by} vectors", sum(found[shard].rows for shard in changed), "rows")
        for place, shard in enumerate(changed, start=1):
            exchange_shard(self._held, self._by, generation.number, centroids, found[shard], self._progress)
            self._log(f"shard {shard} is in the {self._by} cells, {place} of {len(changed)}")
        return changed, lost

    def _is_the_same(self, generation: Generation, entry: Entry | None, source: PartitionContent) -> bool:
        """Whether a shard that has other files has the same rows: after a DELETE or UPDATE of other shards' rows, after
        a merge, or if the same rows were loaded again. The comparison takes 4 core seconds a million vectors, an
        exchange 30 to 50. The shard's files are recorded, then."""
        if entry is None or not entry.source.rows:
            return False
        own = f"cells_generation = {generation.number} AND cells_load = {entry.load}"
        held = cells_content(self._db, cells_table(self._db, self._by), own)
        wanted = table_content(self._db, self._by, f"shard = {source.shard}")
        if held != wanted or partition_contents(self._db).get(source.shard) != source:
            return False
        self._held.require()
        facts = {"load": entry.load, "source": source._replace(rows=held.rows), "distance": entry.distance}
        record(self._db, self._by, "live", generation.number, **facts)
        self._log(f"shard {source.shard} has the rows that are in the {self._by} cells")
        return True

    def _live(self, generation: Generation) -> dict[int, Entry]:
        return read_record(self._db, self._by).live(generation.number)

    def _sweep(self) -> None:
        """Deletes rows that do not count: of loads that did not finish, of replaced loads, of earlier generations.

        Rows that a running search may still read are left for the next build.
        """
        self._held.require()
        cells = self._db.name_of(cells_table(self._db, self._by))
        history, before = read_record(self._db, self._by), self._searches_began()
        for number in history.outdated(before):
            self._db.command(f"ALTER TABLE {cells} DROP PARTITION {number}")
            drop_centroids(self._db, self._by, number)
            record(self._db, self._by, "dropped", number)
            self._log(f"generation {number} of the {self._by} cells is dropped")
        for generation, loads in read_record(self._db, self._by).dead(before).items():
            numbers = ", ".join(map(str, loads))
            # A lightweight DELETE only marks rows, and merges leave them out. Rewriting parts would rewrite all shards.
            self._db.command(
                f"DELETE FROM {cells} IN PARTITION {generation} WHERE cells_load IN ({numbers})",
                settings=CODEC_SETTINGS | {"lightweight_deletes_sync": 2},
            )
            for load in loads:
                record(self._db, self._by, "gone", generation, load=load)
            self._log(f"deleted {self._by} rows of {len(loads)} loads that did not count")

    def _searches_began(self) -> datetime:
        """A time before which no running search began: no search may take longer than its limit."""
        # The embedded engine sets no limit. Its searches run in this process and are far shorter.
        seconds = 10 if self._db.embedded else 2 * round(self._db.settings.clickhouse_search_seconds)
        (before,) = self._db.one(f"SELECT now64(3, 'UTC') - toIntervalSecond({seconds})")
        moment: datetime = before
        return moment

    def _merge(self, generation: int) -> None:
        """Merges many small layers into one; the engine's merges in the background continue meanwhile."""
        table = cells_table(self._db, self._by)
        cells = self._db.name_of(table)
        # The engine keeps these three of each part, as its minmax_count projection: it reads a row a part.
        held = self._db.rows(
            f"SELECT count(), min(cells_cluster), max(cells_cluster) FROM {cells} "
            f"WHERE cells_generation = {generation} GROUP BY _part"
        )
        sizes = layers([(int(rows), int(first), int(last)) for rows, first, last in held])
        if sum(sizes[1:]) >= MERGED_SHARE * sum(sizes[:1]) > 0:
            if self._progress is not None:
                self._progress.begin(f"merge {self._by} cells", None, "rows")
            self._db.command(
                f"OPTIMIZE TABLE {cells} PARTITION {generation} FINAL", settings=CODEC_SETTINGS | {"alter_sync": 2}
            )


def layers(parts: list[tuple[int, int, int]]) -> list[int]:
    """The rows of each layer of parts, most rows first; `parts` has rows, first cluster and last cluster of each part.

    Parts of a layer share no cluster, except where one part ends and the next begins. A search reads a cluster in one
    part of each layer, so a layer is as fast as one part.
    """
    found: list[list[tuple[int, int, int]]] = []
    for part in sorted(parts, reverse=True):
        _, first, last = part
        for layer in found:
            if all(last <= other[1] or other[2] <= first for other in layer):
                layer.append(part)
                break
        else:
            found.append([part])
    return sorted((sum(rows for rows, _, _ in layer) for layer in found), reverse=True)
