"""The active parts of a table, which a load, a build and a swap compare. It changes no part."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from laion_assets.table.database import Database
from laion_assets.table.schema import local_table, parts_table
from laion_assets.table.shard_parts import ShardParts, shard_parts


class Part(NamedTuple):
    """An active part: its name (partition and block numbers are in it), rows, bytes, and a hash over its files."""

    name: str
    rows: int
    bytes_on_disk: int
    content: str


class PartitionContent(NamedTuple):
    """A partition's shard, its rows, and a sum of hashes over the files of its parts and of patch parts that wait.

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
    read = shard_parts(db, parts_table(db), "rows, cityHash64(hash_of_all_files)", *tables)
    return {
        table: {
            shard: PartitionContent(
                shard,
                sum(int(rows) for rows, _ in parts.own),
                sum(int(content) for _, content in (*parts.own, *parts.patches)) % (1 << 64),
            )
            for shard, parts in read[table].items()
        }
        for table in tables
    }


def part_identities(db: Database, shards: Collection[int] | None = None) -> list[str]:
    """Every active part with rows, of these partitions or of all, as `<partition>_<hash over its files>`, by partition.

    Replicas of a part are equal. Another load and another build of graphs give another hash. A name is not enough: a
    later process can give the name of a partition that was dropped to the next one. Patch parts that wait follow the
    parts of their partition. Raises `TableError`.
    """
    table = local_table(db.settings)
    return [
        f"{shard}_{content}"
        for shard, parts in shard_parts(db, parts_table(db), "hash_of_all_files", table)[table].items()
        if shards is None or shard in shards
        for (content,) in (*parts.own, *parts.patches)
    ]


def active_parts(db: Database, table: str, shard: int) -> tuple[Part, ...]:
    """A partition's active parts with rows and the patch parts that wait, by name; `table` is unquoted. Empty if there
    is no such table."""
    parts = _parts(db, table, shard).get(shard, ShardParts())
    return tuple(sorted(Part(*part) for part in (*parts.own, *parts.patches)))


def parts_by_shard(db: Database, table: str) -> dict[int, list[Part]]:
    """The active parts with rows of each partition, without patch parts: oldest first, by block numbers.

    `table` is unquoted. Raises `TableError`.
    """
    return {shard: [Part(*part) for part in parts.own] for shard, parts in _parts(db, table).items()}


def _parts(db: Database, table: str, shard: int | None = None) -> dict[int, ShardParts]:
    columns = "name, rows, bytes_on_disk, hash_of_all_files"
    return shard_parts(db, "system.parts", columns, table, shard=shard)[table]
