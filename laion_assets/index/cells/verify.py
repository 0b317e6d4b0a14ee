"""Whether the cells hold what the table holds, and whether their centroids still fit. It changes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from laion_assets.index.cells.events import LiveCells, Record, live_cells, read_record, rows_of_loads
from laion_assets.index.cells.exchange import cells_content, table_content
from laion_assets.index.cells.schema import cells_exist, cells_table
from laion_assets.table.database import Database
from laion_assets.table.parts import partition_contents
from laion_assets.table.vectors import By, draw_rows

COMPARED_ROWS = 256
"""Number of random rows, from all shards, whose vectors are compared."""

FARTHER = 1.1
"""If a shard's rows are 1.1 times as far from their centroids as the training rows were, the centroids do not fit it.
Rows without part in the training are 1.02 times as far, with 64 training rows a centroid (200,000 sample rows)."""


@dataclass(frozen=True)
class CellsCover:
    """The cells of one vector column compared with the table: shards that are complete, and what is wrong."""

    by: By
    generation: int
    shards: list[int]
    faults: list[str]


def cells_cover(db: Database, by: By, shards: Collection[int] | None = None) -> CellsCover:
    """Compares rows and a hash of ids, shard by shard; only of these `shards`, if they are given. A table without rows
    needs no cells. Raises `TableError`."""
    live = live_cells(db, by) if cells_exist(db) else None
    if live is None and not partition_contents(db):
        return CellsCover(by, 0, [], [])
    if live is None:
        return CellsCover(by, 0, [], [f"no cells of {by} vectors: materialize vector_cells"])
    scanned = [shard for shard in live.scanned if _is_of(shard, shards)]
    faults = [f"shard {shard} is not in the {by} cells, or was changed since" for shard in scanned]
    content = "SELECT shard, count(), sum(cityHash64(id)) FROM"
    cells = db.name_of(cells_table(db, by))
    # Without a load nothing is read: the table may have been dropped.
    held = db.rows(f"{content} {cells} WHERE {rows_of_loads(live)} GROUP BY shard") if live.loads else []
    in_cells = {int(shard): (int(rows), int(hashed)) for shard, rows, hashed in held}
    in_table = {
        int(shard): (int(rows), int(hashed)) for shard, rows, hashed in db.rows(f"{content} {db.table} GROUP BY shard")
    }
    for shard in sorted((in_cells.keys() | in_table.keys()) - set(live.scanned)):
        if _is_of(shard, shards) and in_cells.get(shard) != in_table.get(shard):
            rows, wanted = in_cells.get(shard, (0, 0))[0], in_table.get(shard, (0, 0))[0]
            faults.append(
                f"shard {shard} has {rows:,} rows in the {by} cells and {wanted:,} in the table, or other ids"
            )
    whole = [shard for shard in sorted(in_table) if in_cells.get(shard) == in_table[shard]]
    if live.loads and not faults and not _drawn_rows_agree(db, by, live, shards):
        faults.append(
            f"{by} vectors in the cells that are not the table's, as after the table was dropped and loaded again: "
            "drop the tables of cells too, and materialize vector_cells"
        )
    return CellsCover(by, live.generation, whole, faults)


def _is_of(shard: int, shards: Collection[int] | None) -> bool:
    return shards is None or shard in shards


def _drawn_rows_agree(db: Database, by: By, live: LiveCells, shards: Collection[int] | None) -> bool:
    """Whether random rows of these shards have the same vectors in the cells and in the table."""
    of = None if shards is None else sorted(shards)
    ids = ", ".join(map(str, draw_rows(db, COMPARED_ROWS, seed=0, shards=of).tolist()))
    own = f"{rows_of_loads(live)} AND id IN ({ids})"
    return cells_content(db, cells_table(db, by), own) == table_content(db, by, f"id IN ({ids})")


def misfits(history: Record, loaded: set[int]) -> dict[int, float]:
    """Shards whose rows are too far from the current centroids, each with its distance relative to the training
    rows."""
    current = history.current
    if current is None or not current.distance:
        return {}
    live = history.live(current.number)
    times = {shard: entry.distance / current.distance for shard, entry in live.items() if entry.source.rows}
    return {shard: found for shard, found in sorted(times.items()) if found > FARTHER and shard in loaded}


def centroid_misfits(db: Database, by: By) -> dict[int, float]:
    """`misfits` of the loaded shards. Raises `TableError` when there are rows and no tables of cells."""
    loaded = set(partition_contents(db))
    return misfits(read_record(db, by), loaded) if loaded else {}


def cells_bytes(db: Database, by: By) -> int:
    """Bytes on disk of the cells of a vector column."""
    (size,) = db.one(
        "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = {database:String} AND table = {table:String} "
        "AND active",
        parameters={"database": db.database, "table": cells_table(db, by)},
    )
    return int(size)
