"""Reads rows of the table by their ids, with every column but the vectors. It ranks nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.searching.statement import answer_text
from laion_assets.table.database import Database
from laion_assets.table.schema import VECTOR_COLUMNS, require_table, table_columns

MOST_SHARD = 65_535
"""The largest shard number, since the table's partition key is a UInt16."""


def rows_of(db: Database, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The rows with these ids, by id, each a dict of its columns; ids without a row are left out. NaN becomes None.

    Only the partitions of these ids are read. Raises `TableError`.
    """
    wanted = sorted({row_id for row_id in ids if 0 <= row_id // ID_STRIDE <= MOST_SHARD})
    if not wanted:
        return {}
    columns = [name for name in table_columns(db) if name not in VECTOR_COLUMNS]
    shards = sorted({row_id // ID_STRIDE for row_id in wanted})
    sql = (
        f"SELECT {', '.join(f'`{name}`' for name in columns)} FROM {db.table} "
        f"WHERE shard IN ({', '.join(map(str, shards))}) AND id IN ({', '.join(map(str, wanted))})"
    )
    try:
        rows = db.rows(sql, settings={"readonly": 2, "max_query_size": 1 << 24}, text_as_bytes=True)
    except TableError:
        require_table(db)
        raise
    place = columns.index("id")
    return {int(row[place]): dict(zip(columns, map(_plain, row), strict=True)) for row in rows}


def _plain(value: object) -> object:
    """The value in a type that JSON can hold."""
    if isinstance(value, bytes):
        return answer_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, type(None))) else str(value)
