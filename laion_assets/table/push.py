"""Sends a merged file to a server that cannot read it: Arrow streams, batch by batch. It checks no rows."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.errors import TableError
from laion_assets.read_ahead import read_ahead
from laion_assets.shard.merged import MergedShard, reading
from laion_assets.table import inserting
from laion_assets.table.database import Database
from laion_assets.table.inserting import Rows, insert_settings, killing

PUSH_BATCH_ROWS = 2_048
"""Rows of a batch when the file is pushed, 8.5 MB of two 512-dimensional vectors. Arrow used 78 MB at most, and 140 MB
with batches of a whole row group."""


SMALL_BYTES = 64 << 10


def push_file(
    db: Database, staging: str, merged: MergedShard, columns: list[str], query_id: str, inserted: Rows | None
) -> None:
    """Sends the rows of the file to a staging table (quoted) as Arrow streams of one part each, two at the same time.

    A server writes a stream in one thread, and would buffer a whole Parquet body. Raises `TableError`, and the errors
    of a file that cannot be read.
    """

    def push(groups: list[int]) -> int:
        return _push_groups(db, staging, merged, columns, groups, footer, f"{query_id}-{groups[0]}")

    with reading(merged) as source:
        footer = pq.read_metadata(source)
    pushing = ThreadPoolExecutor(inserting.INSERT_THREADS, thread_name_prefix="push")
    try:
        with killing(db, query_id):
            for part in as_completed([pushing.submit(push, groups) for groups in _row_groups_of_parts(footer)]):
                rows = part.result()
                if inserted is not None:
                    inserted(rows)
    finally:
        pushing.shutdown(cancel_futures=True)


def _row_groups_of_parts(footer: pq.FileMetaData) -> list[list[int]]:
    """The file's row groups, grouped so that each group makes a part of `PART_ROWS` rows or slightly more."""
    parts: list[list[int]] = []
    rows = inserting.PART_ROWS
    for group in range(footer.num_row_groups):
        if rows >= inserting.PART_ROWS:
            parts.append([])
            rows = 0
        parts[-1].append(group)
        rows += footer.row_group(group).num_rows
    return parts


def _push_groups(
    db: Database,
    staging: str,
    merged: MergedShard,
    columns: list[str],
    groups: list[int],
    footer: pq.FileMetaData,
    query_id: str,
) -> int:
    """Sends these row groups as one stream; returns the number of their rows."""
    with reading(merged) as source, pq.ParquetFile(source, metadata=footer) as file:
        # The next batch is decoded while the current one is compressed and sent.
        batches = read_ahead(file.iter_batches(PUSH_BATCH_ROWS, row_groups=groups, columns=columns))
        stream = _ArrowStream(batches, columns, merged.shard, db.settings.compression)
        try:
            with db.limited(insert_settings(inserting.PART_ROWS, query_id)) as settings:
                # The parameter's type is bytes, but the connection takes any object with a buffer.
                pieces = cast("Generator[bytes, None, None]", stream.pieces())
                db.client.raw_insert(staging, [*columns, "shard"], pieces, settings=settings, fmt="ArrowStream")
        except TableError:
            if stream.failure is not None:
                raise stream.failure from None
            raise
        return stream.rows


class _ArrowStream:
    """The bytes of one Arrow stream, batch by batch.

    `rows` counts its rows. `failure` is an error of the file, which the HTTP client would report as its own.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], columns: list[str], shard: int, compression: str) -> None:
        self._batches, self._columns = batches, columns
        self._shard = pa.scalar(shard, pa.uint16())
        self._options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        self.rows = 0
        self.failure: Exception | None = None

    def pieces(self) -> Generator[bytes | memoryview, None, None]:
        """The stream, compressed by Arrow, buffer by buffer, on as many threads as there are cores."""
        sink, writer = _Sink(), None
        while (batch := self._next()) is not None:
            # The columns are in the file's order; the statement names them.
            arrays = [*(batch.column(name) for name in self._columns), pa.repeat(self._shard, batch.num_rows)]
            sent = pa.RecordBatch.from_arrays(arrays, names=[*self._columns, "shard"])
            writer = writer or pa.ipc.new_stream(sink, sent.schema, options=self._options)
            writer.write_batch(sent)
            self.rows += batch.num_rows
            yield from sink.taken()
        if writer is not None:
            writer.close()
            yield from sink.taken()

    def _next(self) -> pa.RecordBatch | None:
        try:
            return next(self._batches, None)
        except (OSError, pa.ArrowException) as error:
            self.failure = error
            raise


class _Sink:
    """The file object that Arrow writes to: keeps the bytes until they are taken."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes | memoryview] = []

    def write(self, data: bytes | pa.Buffer) -> int:
        """Vectors come as buffers that do not change while they are referenced, so they are not copied."""
        self._written.append(memoryview(data))
        return len(data)

    def taken(self) -> Iterator[bytes | memoryview]:
        """The bytes written since the last call. A batch has twenty pieces; the small ones are joined."""
        small: list[bytes | memoryview] = []
        for piece in self._written:
            if len(piece) < SMALL_BYTES:
                small.append(piece)
                continue
            yield b"".join(small)
            small.clear()
            yield piece
        yield b"".join(small)
        self._written.clear()

    def flush(self) -> None:
        """Does nothing: no bytes are held back."""

    def close(self) -> None:
        """Does nothing: there is nothing to close."""
