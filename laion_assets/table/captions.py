"""Reads captions of the table with their stored vectors, to compare encoders with them. It encodes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laion_assets.table.database import Database
from laion_assets.table.schema import require_table


@dataclass(frozen=True)
class StoredCaptions:
    """Some rows: `ids` and `captions` (n), `vectors` (n, dimension) float32 as stored."""

    ids: list[int]
    captions: list[str]
    vectors: npt.NDArray[np.float32]


def stored_captions(db: Database, count: int) -> StoredCaptions:
    """`count` rows with a caption from the whole table. The rows are the same as long as the table's rows are.

    Captions that are not UTF-8 are left out. Raises `TableError` when there is no table.
    """
    require_table(db)
    rows = db.rows(
        f"SELECT id, caption, text_embedding FROM {db.table} WHERE id GLOBAL IN ("
        f"SELECT id FROM {db.table} WHERE notEmpty(caption) AND isValidUTF8(caption) "
        "ORDER BY cityHash64(id) LIMIT {count:UInt32}) ORDER BY id",
        parameters={"count": count},
    )
    vectors = np.array([vector for *_, vector in rows], dtype=np.float32)
    return StoredCaptions([int(row[0]) for row in rows], [str(row[1]) for row in rows], vectors)
