"""Statements that insert a shard's rows: their settings, and their end where one fails. It states none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from laion_assets.errors import TableError
from laion_assets.table.database import Database

INSERT_SETTINGS: dict[str, object] = {
    # Blocks in the file's order make parts whose ids do not overlap: the merge to one part was twice as fast.
    "input_format_parquet_preserve_order": 1,
    # Decoded row groups that may wait; the default of 4 GB lets memory grow with the file. With 64 MB and two threads
    # one core decoded and wrote by turns: 9.6 s for 1,000,448 rows, now 8.4.
    "input_format_parquet_memory_high_watermark": 256 << 20,
    "max_threads": 4,
    "max_block_size": 8_192,
    # Rows alone decide where a part ends.
    "min_insert_block_size_bytes": 0,
    "materialize_skip_indexes_on_insert": 0,
}

PART_ROWS = 32_768
"""Rows a part that is inserted: 134 MB of two 512-dimensional vectors, 31 parts for LAION's shards."""

STATEMENT_ROWS = 16 * PART_ROWS
"""Rows a statement of the insert, so that a load tells how far it is."""

INSERT_THREADS = 2
"""Parts that are written at a time, while the next are decoded. 1,000,448 rows took 7.8 s and 1.28 GB; one part at a
time 14.5 s and 0.74 GB; one of 65,536 rows at a time, each in its own statement, 16.2 s and 0.84 GB. All rows in one
part took 23.8 s and 5.2 GB, which spares the 14 s of the merge to one part."""

Rows = Callable[[int], None]
"""Called with the rows that were inserted since the last call."""


def insert_settings(rows: int, query_id: str) -> dict[str, object]:
    """Of a statement of so many rows: what fits into one part is not shared out."""
    return {
        **INSERT_SETTINGS,
        "max_insert_block_size": PART_ROWS,
        "min_insert_block_size_rows": PART_ROWS,
        "max_insert_threads": INSERT_THREADS if rows > PART_ROWS else 1,
        "query_id": query_id,
    }


@contextmanager
def killing(db: Database, query_id: str) -> Iterator[None]:
    """Where the block fails, statements whose ids begin with `query_id` are ended, on a server."""
    try:
        yield
    except BaseException:
        if not db.embedded:
            with suppress(TableError):
                db.rows("KILL QUERY WHERE startsWith(query_id, {id:String}) ASYNC", parameters={"id": query_id})
        raise
