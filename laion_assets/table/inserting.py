"""Statements that insert a shard's rows: their settings, and how they are ended if one fails. It makes none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from laion_assets.errors import TableError
from laion_assets.table.database import Database

INSERT_SETTINGS: dict[str, object] = {
    # Blocks in the file's order make parts whose ids do not overlap: the merge to one part was twice as fast.
    "input_format_parquet_preserve_order": 1,
    # Bytes of decoded row groups that may wait. With the default of 4 GB, memory grows with the file. With 64 MB and
    # two threads one core decoded and wrote alternately: 9.6 s for 1,000,448 rows, now 8.4.
    "input_format_parquet_memory_high_watermark": 256 << 20,
    "max_threads": 4,
    "max_block_size": 8_192,
    # Only the number of rows decides where a part ends.
    "min_insert_block_size_bytes": 0,
    "materialize_skip_indexes_on_insert": 0,
}

PART_ROWS = 32_768
"""Rows of a part as it is inserted: 134 MB of two 512-dimensional vectors, 31 parts for LAION's shards."""

STATEMENT_ROWS = 16 * PART_ROWS
"""Rows of one INSERT statement, so that a load can report its progress."""

INSERT_THREADS = 2
"""Parts that are written at a time, while the next ones are decoded. 1,000,448 rows took 7.8 s and 1.28 GB with this;
14.5 s and 0.74 GB with one part at a time; 16.2 s and 0.84 GB with one part of 65,536 rows at a time, each in its own
statement. All rows in one part took 23.8 s and 5.2 GB, but saved the 14 s of the merge to one part."""

Rows = Callable[[int], None]
"""Called with the number of rows that were inserted since the last call."""


def insert_settings(rows: int, query_id: str) -> dict[str, object]:
    """Settings of a statement of `rows` rows: rows that fit into one part are not split among threads."""
    return {
        **INSERT_SETTINGS,
        "max_insert_block_size": PART_ROWS,
        "min_insert_block_size_rows": PART_ROWS,
        "max_insert_threads": INSERT_THREADS if rows > PART_ROWS else 1,
        "query_id": query_id,
    }


@contextmanager
def killing(db: Database, query_id: str) -> Iterator[None]:
    """If the block fails on a server, ends the statements whose ids begin with `query_id`."""
    try:
        yield
    except BaseException:
        if not db.embedded:
            with suppress(TableError):
                db.rows("KILL QUERY WHERE startsWith(query_id, {id:String}) ASYNC", parameters={"id": query_id})
        raise
