"""How a merged file reaches the engine: it reads the file where it can, else we push it. It checks no rows."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.read_ahead import read_ahead
from laion_assets.shard.merged import MergedShard, reading
from laion_assets.table.connect import Database
from laion_assets.table.parquet_source import parquet_columns, parquet_source, table_function
from laion_assets.table.schema import table_columns

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

PROBE_SETTINGS: dict[str, object] = {"max_threads": 1, "http_max_tries": 2, "max_execution_time": 60}
"""For the question whether a server finds the file. By itself it would try a host that is not there for a minute."""

PUSH_BATCH_ROWS = 2_048
"""Rows a batch where the file is pushed, 8.5 MB of two 512-dimensional vectors: Arrow held 78 MB at most, and 140 MB
with batches of a whole row group."""

Way = Literal["file", "user_files", "s3", "gcs", "url", "push"]

Rows = Callable[[int], None]
"""Called with the rows that were inserted since the last call."""


@dataclass(frozen=True)
class Transfer:
    """One way: `source` is the table function by which the engine reads the file, empty where we push it."""

    way: Way
    source: str
    why: str

    def __str__(self) -> str:
        return f"{self.way}: {self.why}"


def choose_transfer(db: Database, merged: MergedShard) -> Transfer:
    """The first way that is possible: the engine reads the file, or we push it.

    A server is asked whether it finds a file of the right size and rows at the place where we take it to be. Raises
    `TableError` for a path that ClickHouse would take for a pattern.
    """
    if db.embedded:
        way: Way = "file" if isinstance(merged.path, Path) else "s3"
        return Transfer(way, parquet_source(db, merged.path), "the embedded engine reads the store")
    found = _place_on_server(db, merged)
    if found is None:
        return Transfer("push", "", "the server cannot see the store, and LAION_CLICKHOUSE_MERGED is not set")
    way, place, source = found
    try:
        # The last bytes of a Parquet file are enough for its rows.
        seen = db.rows(f"SELECT any(_size), count() FROM {source}", settings=PROBE_SETTINGS)[0]
    except TableError as error:
        return Transfer("push", "", f"the server does not read {place} ({error.found[:160]})")
    if seen[0] not in (None, 0, merged.file_bytes) or seen[1] != merged.rows:
        return Transfer("push", "", f"{place} is another file: {seen[0]} bytes, {seen[1]:,} rows")
    return Transfer(way, source, f"the server reads {place}")


def _place_on_server(db: Database, merged: MergedShard) -> tuple[Way, str, str] | None:
    """Where the server may find the merged file: the way, the place, and the table function."""
    place = db.settings.clickhouse_merged
    if place is None:
        if not isinstance(merged.path, Path):
            return "s3", str(merged.path), parquet_source(db, merged.path)
        relative = _below_user_files(db, merged.path.resolve())
        return None if relative is None else ("user_files", relative, table_function(db, "file", relative))
    scheme, mark, _ = place.partition("://")
    ways: dict[str, Way] = {"s3": "s3", "gs": "gcs", "http": "url", "https": "url"}
    way: Way = ways[scheme] if mark else "user_files"
    place = f"{place}/{merged.path.name}"
    return way, place, table_function(db, "file" if way == "user_files" else way, place)


def _below_user_files(db: Database, path: Path) -> str | None:
    """The path within the server's user_files, where it is below them."""
    with suppress(TableError):
        rows = db.rows("SELECT value FROM system.server_settings WHERE name = 'user_files_path'")
        folder = Path(str(rows[0][0])) if rows else Path()
        if folder.is_absolute() and path.is_relative_to(folder.resolve()):
            return str(path.relative_to(folder.resolve()))
    return None


def insert_file(db: Database, staging: str, merged: MergedShard, transfer: Transfer, inserted: Rows | None) -> None:
    """Inserts the rows of the file into a staging table (quoted), block by block. Raises `TableError`.

    On a server every statement has an id of ours, and one that we can no longer follow is killed.
    """
    columns = [name for name in table_columns(db) if name in parquet_columns(db)]
    query_id = f"laion_assets-{db.settings.table}-{merged.shard}-{uuid.uuid4()}"
    try:
        if transfer.source:
            _pull(db, staging, merged, transfer.source, columns, query_id, inserted)
        else:
            _push(db, staging, merged, columns, query_id, inserted)
    except BaseException:
        if not db.embedded:
            with suppress(TableError):
                db.rows("KILL QUERY WHERE startsWith(query_id, {id:String}) ASYNC", parameters={"id": query_id})
        raise


def _pull(
    db: Database,
    staging: str,
    merged: MergedShard,
    source: str,
    columns: list[str],
    query_id: str,
    inserted: Rows | None,
) -> None:
    listed = ", ".join(quote_identifier(name) for name in columns)
    first = merged.shard * ID_STRIDE
    rows = merged.rows + merged.quarantined
    for row in range(0, rows, STATEMENT_ROWS):
        # Row groups outside the piece are skipped by their statistics. The first and the last piece are open, so that a
        # row with an id of another shard is staged, and then found.
        low = f"id >= {first + row}" if row else "1"
        high = f"id < {first + row + STATEMENT_ROWS}" if row + STATEMENT_ROWS < rows else "1"
        db.command(
            f"INSERT INTO {staging} ({listed}, shard) SELECT {listed}, {merged.shard} FROM {source} "
            f"WHERE {low} AND {high}",
            settings=_insert_settings(min(STATEMENT_ROWS, rows - row), f"{query_id}-{row}"),
        )
        if inserted is not None:
            inserted(min(STATEMENT_ROWS, rows - row))


def _insert_settings(rows: int, query_id: str) -> dict[str, object]:
    """Of a statement of so many rows: what fits into one part is not shared out."""
    return {
        **INSERT_SETTINGS,
        "max_insert_block_size": PART_ROWS,
        "min_insert_block_size_rows": PART_ROWS,
        "max_insert_threads": INSERT_THREADS if rows > PART_ROWS else 1,
        "query_id": query_id,
    }


def _push(
    db: Database, staging: str, merged: MergedShard, columns: list[str], query_id: str, inserted: Rows | None
) -> None:
    """Sends the file as Arrow streams of `STATEMENT_ROWS`, batch by batch: a server buffers a Parquet body whole.

    A stream ends with a batch, so it may be a few rows longer.
    """
    with reading(merged) as source, pq.ParquetFile(source) as file:
        # The next batch is decoded while the one before is compressed and sent.
        batches = read_ahead(file.iter_batches(min(PUSH_BATCH_ROWS, STATEMENT_ROWS), columns=columns))
        named, sent = [*columns, "shard"], 0
        while sent < file.metadata.num_rows:
            pieces = _ArrowPieces(batches, columns, merged.shard, STATEMENT_ROWS, db.settings.compression)
            try:
                with db.limited(_insert_settings(STATEMENT_ROWS, f"{query_id}-{sent}")) as settings:
                    db.client.raw_insert(staging, named, pieces.stream(), settings=settings, fmt="ArrowStream")
            except TableError:
                if pieces.failure is not None:
                    raise pieces.failure from None
                raise
            sent += pieces.rows
            if inserted is not None:
                inserted(pieces.rows)


class _ArrowPieces:
    """The bytes of one Arrow stream of up to `most` rows, batch by batch.

    `rows` counts them; `failure` is what went wrong with the file, which the HTTP client would take for its own.
    """

    def __init__(
        self, batches: Iterator[pa.RecordBatch], columns: list[str], shard: int, most: int, compression: str
    ) -> None:
        self._batches, self._columns, self._most = batches, columns, most
        self._shard = pa.scalar(shard, pa.uint16())
        self._options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
        self.rows = 0
        self.failure: Exception | None = None

    def stream(self) -> Generator[bytes, None, None]:
        """Compressed by Arrow, buffer by buffer, on as many threads as there are cores."""
        sink, writer = _Sink(), None
        while self.rows < self._most and (batch := self._next()) is not None:
            # The columns come in the file's order; the statement names ours.
            arrays = [*(batch.column(name) for name in self._columns), pa.repeat(self._shard, batch.num_rows)]
            sent = pa.RecordBatch.from_arrays(arrays, names=[*self._columns, "shard"])
            writer = writer or pa.ipc.new_stream(sink, sent.schema, options=self._options)
            writer.write_batch(sent)
            self.rows += batch.num_rows
            yield sink.taken()
        if writer is not None:
            writer.close()
            yield sink.taken()

    def _next(self) -> pa.RecordBatch | None:
        try:
            return next(self._batches, None)
        except (OSError, pa.ArrowException) as error:
            self.failure = error
            raise


class _Sink:
    """What Arrow writes into: keeps what was written until it is taken."""

    closed = False

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keeps a copy: Arrow uses its buffers again."""
        self._written.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last call, as one piece: Arrow writes twenty small ones a batch."""
        written = b"".join(self._written)
        self._written.clear()
        return written

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing to close."""


def release_memory(db: Database) -> None:
    """Gives free pages back between stages, so that a step's peak is its largest stage and not their sum."""
    if db.embedded:
        db.command("SYSTEM JEMALLOC PURGE")
