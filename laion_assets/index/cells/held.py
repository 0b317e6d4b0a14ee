"""Whether the tables of cells and centroids have what the record counts: somebody may have dropped one of them, or
ClickHouse may have set a broken part aside. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from laion_assets.index.cells.schema import cells_table, centroids_table, code_dimension, events_table
from laion_assets.table.database import Database
from laion_assets.table.parts import PartitionContent
from laion_assets.table.vectors import By

Result = TypeVar("Result")


def whole_loads(
    db: Database, by: By, generation: int, wanted: Mapping[int, int], content: PartitionContent | None
) -> frozenset[int]:
    """The loads of a generation of which the cells have every row; `wanted` is the number of rows by load.

    `content` tells the generation's parts; None if it has none. The result is kept with the connection until the parts
    or the loads change. Raises `TableError`.
    """
    if content is None:
        return frozenset(load for load, rows in wanted.items() if not rows)

    def read() -> frozenset[int]:
        if _nothing_is_missing(db, by, generation):
            return frozenset(wanted)
        held = rows_by_load(db, by, generation)
        return frozenset(load for load, rows in wanted.items() if held.get(load, 0) == rows)

    name = f"loads of {db.name_of(cells_table(db, by))}"
    return _kept(db, name, (content, tuple(sorted(wanted.items()))), read)


def _nothing_is_missing(db: Database, by: By, generation: int) -> bool:
    """Whether the cells have as many rows as all loads that were begun and not deleted have together.

    No load has more rows than were recorded at its beginning, so none lacks a row then. The engine counts rows by the
    headers of parts, and reads a byte a row only in parts with deleted rows; counting by load reads eight bytes a row.
    """
    own = f"FROM {db.name_of(events_table(db))} WHERE vectors = '{by}' AND generation = {int(generation)}"
    (missing,) = db.one(
        f"SELECT (SELECT sum(rows) {own} AND event = 'begun' AND load NOT IN (SELECT load {own} AND event = 'gone'))"
        f" - (SELECT count() FROM {db.name_of(cells_table(db, by))} WHERE cells_generation = {int(generation)})"
    )
    return int(missing) == 0


def rows_by_load(db: Database, by: By, generation: int) -> dict[int, int]:
    """How many rows of each load the cells of a generation have. Raises `TableError`."""
    rows = db.rows(
        f"SELECT cells_load, count() FROM {db.name_of(cells_table(db, by))} "
        f"WHERE cells_generation = {int(generation)} GROUP BY cells_load"
    )
    return {int(load): int(count) for load, count in rows}


def has_centroids(db: Database, by: By, generation: int, clusters: int, content: PartitionContent | None) -> bool:
    """Whether each of the generation's centroids is there once. `content` tells the parts of all centroids, and the
    result is kept until they change. Raises `TableError`."""
    if content is None:
        return False
    name = f"centroids of {db.name_of(cells_table(db, by))}"
    asked = (content, generation, clusters)
    return _kept(db, name, asked, lambda: _centroids(db, by, generation) == (clusters, clusters))


def _centroids(db: Database, by: By, generation: int) -> tuple[int, int]:
    count, different = db.one(
        f"SELECT count(), uniqExact(cluster) FROM {db.name_of(centroids_table(db))} WHERE vectors = '{by}' "
        f"AND generation = {int(generation)} AND length(centroid) = {code_dimension(db)}"
    )
    return int(count), int(different)


def _kept(db: Database, name: str, asked: object, read: Callable[[], Result]) -> Result:
    """What `read` returned when the same was asked last over this connection; else what it returns now."""
    kept = db.kept.get(name)
    if isinstance(kept, tuple) and kept[0] == asked:
        found: Result = kept[1]
        return found
    found = read()
    db.kept[name] = (asked, found)
    return found
