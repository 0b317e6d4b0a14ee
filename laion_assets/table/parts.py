"""The active parts of a table, which a load, a build and a swap compare. It changes no part."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from laion_assets.table.database import Database


class Part(NamedTuple):
    """An active part: its name (partition and block numbers are in it), rows, bytes, and a hash over its files."""

    name: str
    rows: int
    bytes_on_disk: int
    content: str


def active_parts(db: Database, table: str, shard: int) -> tuple[Part, ...]:
    """A partition's active parts with rows, by name; `table` is unquoted. Empty if there is no such table."""
    parts = parts_by_partition(db, table, str(shard)).get(str(shard), [])
    return tuple(sorted(parts))


def parts_by_partition(db: Database, table: str, partition: str = "") -> dict[str, list[Part]]:
    """The active parts with rows of each partition, or of the named one: oldest first, by block numbers.

    `table` is unquoted. Raises `TableError`.
    """
    rows = db.rows(
        "SELECT partition, name, rows, bytes_on_disk, hash_of_all_files FROM system.parts "
        "WHERE database = {database:String} AND table = {table:String} AND active AND rows > 0 "
        "AND (empty({partition:String}) OR partition = {partition:String}) ORDER BY partition, min_block_number",
        parameters={"database": db.database, "table": table, "partition": partition},
    )
    found: dict[str, list[Part]] = defaultdict(list)
    for of_partition, name, count, size, content in rows:
        found[str(of_partition)].append(Part(str(name), int(count), int(size), str(content)))
    return found
