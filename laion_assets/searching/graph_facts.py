"""What a search by graphs must know: which graphs have deleted rows, and which count bits. It searches nothing."""

from __future__ import annotations

from dataclasses import dataclass

from laion_assets.index.declared import declared_indexes
from laion_assets.table.database import Database
from laion_assets.table.schema import local_table, parts_table
from laion_assets.table.shard_parts import shard_parts


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
    table = local_table(db.settings)
    columns = "has_lightweight_delete, secondary_indices_compressed_bytes"
    deleted = frozenset(
        shard
        for shard, parts in shard_parts(db, parts_table(db), columns, table)[table].items()
        if any(index and (changed or parts.patches) for changed, index in parts.own)
    )
    of_bits = frozenset(column for column, kind in declared_indexes(db).values() if "'b1'" in kind)
    return GraphFacts(deleted, of_bits)
