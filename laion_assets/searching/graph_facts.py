"""What a search by graphs must know: which graphs have deleted rows, and which count bits. It searches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.index.declared import declared_indexes
from laion_assets.table.database import Database
from laion_assets.table.schema import local_table, parts_table


@dataclass(frozen=True)
class GraphFacts:
    """`with_deleted_rows` are the shards whose graphs still have rows that a lightweight DELETE removed.

    `of_bits` are the vector columns with a graph of quantization b1. The distance in such a graph is the number of bits
    that differ, from 0 to the dimension, and no cosine distance.
    """

    with_deleted_rows: frozenset[int]
    of_bits: frozenset[str]


def graph_facts(db: Database) -> GraphFacts:
    """Reads them, by two short statements; in a cluster, the parts are of one replica of each cluster shard. Raises
    `TableError`."""
    deleted = db.rows(
        f"SELECT DISTINCT toInt64(partition) FROM {parts_table(db)} WHERE database = {{database:String}} "
        "AND table = {table:String} AND active AND rows > 0 "
        "AND has_lightweight_delete AND secondary_indices_compressed_bytes > 0",
        parameters={"database": db.database, "table": local_table(db.settings)},
    )
    of_bits = frozenset(column for column, kind in declared_indexes(db).values() if "'b1'" in kind)
    return GraphFacts(frozenset(int(shard) for (shard,) in deleted), of_bits)
