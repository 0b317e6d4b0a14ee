"""The active parts of a table, which a load, a build and a swap compare. It changes no part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from laion_assets.table.database import Database
from laion_assets.table.schema import local_table, parts_table


class Part(NamedTuple):
    """An active part: its name (partition and block numbers are in it), rows, bytes, and a hash over its files."""

    name: str
    rows: int
    bytes_on_disk: int
    content: str


class PartitionContent(NamedTuple):
    """A partition's shard, its rows, and a sum of hashes over the files of its parts.

    A load of other rows, a DELETE, an UPDATE, a build of graphs and a merge change the sum. A mutation that changes no
    row of the partition does not. Block numbers would not do: a partition that was dropped, and is loaded again by a
    later process, can have the same ones (chDB 26.9). Rows that a lightweight DELETE has marked count in `rows`.
    """

    shard: int
    rows: int
    content: int


def partition_contents(db: Database) -> dict[int, PartitionContent]:
    """What the table holds now, by shard; of a cluster, from one replica of each cluster shard. Raises `TableError`."""
    table = local_table(db.settings)
    return contents_of_tables(db, table)[table]


def contents_of_tables(db: Database, *tables: str) -> dict[str, dict[int, PartitionContent]]:
    """The same for several tables, by their unquoted names, in one statement. A partition that is no number is 0."""
    rows = db.rows(
        "SELECT table, toInt64OrZero(partition), sum(rows), sum(cityHash64(hash_of_all_files)) "
        f"FROM {parts_table(db)} WHERE database = {{database:String}} AND table IN {{tables:Array(String)}} "
        "AND active AND rows > 0 GROUP BY table, partition ORDER BY 1, 2",
        parameters={"database": db.database, "tables": list(tables)},
    )
    found: dict[str, dict[int, PartitionContent]] = {table: {} for table in tables}
    for table, number, count, content in rows:
        found[str(table)][int(number)] = PartitionContent(int(number), int(count), int(content))
    return found


def part_identities(db: Database, shards: Collection[int] | None = None) -> list[str]:
    """Every active part with rows, of these partitions or of all, as `<partition>_<hash over its files>`, by partition.

    Replicas of a part are equal. Another load and another build of graphs give another hash. A name is not enough: a
    later process can give the name of a partition that was dropped to the next one. Raises `TableError`.
    """
    rows = db.rows(
        f"SELECT toInt64(partition), concat(partition, '_', hash_of_all_files) FROM {parts_table(db)} "
        "WHERE database = {database:String} AND table = {table:String} "
        "AND active AND rows > 0 ORDER BY toInt64(partition), name",
        parameters={"database": db.database, "table": local_table(db.settings)},
    )
    return [str(identity) for shard, identity in rows if shards is None or int(shard) in shards]


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
