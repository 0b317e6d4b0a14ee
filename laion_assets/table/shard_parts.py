"""The active parts of tables by shard, with the patch parts that still change them. It changes no part.

A lightweight UPDATE or DELETE may write patch parts (tables with `enable_block_number_column`). The patch parts of
partition 3 are in a partition `patch-<hash>-3`, and reads apply them to the parts of partition 3 that are older. A part
that was swapped in later, or to which a mutation or merge applied them, is newer. ClickHouse removes patch parts that
no part needs about half a minute later, and until then they are active.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from laion_assets.table.database import Database


@dataclass
class ShardParts:
    """The values that were asked for of a shard's own parts, oldest first by block numbers, and of its patch parts.

    Patch parts that every part of the shard has already are left out.
    """

    own: list[tuple[Any, ...]] = field(default_factory=list)
    patches: list[tuple[Any, ...]] = field(default_factory=list)


def shard_parts(
    db: Database, source: str, columns: str, *tables: str, shard: int | None = None
) -> dict[str, dict[int, ShardParts]]:
    """`columns` (SQL) of the active parts with rows, by table and shard, both ascending; tables are unquoted names.
    With `shard`, only those of this shard.

    `source` is `system.parts`, or `schema.parts_table(db)`. A partition that is no number is 0. Patch parts without a
    part that they change, as after DROP PARTITION, are left out. Raises `TableError`.
    """
    of_shard = "" if shard is None else f"AND shard = {int(shard)} "
    rows = db.rows(
        # After the last hyphen of patch-<hash>-3 comes the partition's own name.
        "SELECT table, toInt64OrZero(splitByChar('-', partition)[-1]) AS shard, startsWith(partition, 'patch-'), "
        f"data_version, {columns} FROM {source} WHERE database = {{database:String}} "
        f"AND table IN {{tables:Array(String)}} AND active AND rows > 0 {of_shard}"
        "ORDER BY table, shard, min_block_number, name",
        parameters={"database": db.database, "tables": list(tables)},
    )
    own: dict[tuple[str, int], list[Sequence[Any]]] = defaultdict(list)
    patches: dict[tuple[str, int], list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        (patches if row[2] else own)[str(row[0]), int(row[1])].append(row)
    found: dict[str, dict[int, ShardParts]] = {table: {} for table in tables}
    for (table, number), parts in own.items():
        oldest = min(int(row[3]) for row in parts)
        waiting = [row for row in patches[table, number] if int(row[3]) > oldest]
        found[table][number] = ShardParts([tuple(row[4:]) for row in parts], [tuple(row[4:]) for row in waiting])
    return found
