"""How a merged file gets to the engine: the engine reads it if it can, else push.py sends it. It checks no rows."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.shard.merged import MergedShard
from laion_assets.table import inserting
from laion_assets.table.database import Database
from laion_assets.table.inserting import Rows, insert_settings, killing
from laion_assets.table.parquet_source import parquet_columns, parquet_source, table_function
from laion_assets.table.push import push_file
from laion_assets.table.schema import table_columns

PROBE_SETTINGS: dict[str, object] = {"max_threads": 1, "http_max_tries": 2, "max_execution_time": 60}
"""For asking a server whether it finds the file. With its own settings it would try a missing host for a minute."""

Way = Literal["file", "user_files", "s3", "gcs", "url", "push"]


@dataclass(frozen=True)
class Transfer:
    """One way: `source` is the table function by which the engine reads the file, empty if we push it."""

    way: Way
    source: str
    why: str

    def __str__(self) -> str:
        return f"{self.way}: {self.why}"


def choose_transfer(db: Database, merged: MergedShard) -> Transfer:
    """The first way that is possible: the engine reads the file, or we push it.

    A server is asked whether it finds a file of the right size and rows at the place where we expect it. Raises
    `TableError` for a path that ClickHouse would read as a pattern.
    """
    if db.embedded:
        way: Way = "file" if isinstance(merged.path, Path) else "s3"
        return Transfer(way, parquet_source(db, merged.path), "the embedded engine reads the store")
    found = _place_on_server(db, merged)
    if found is None:
        return Transfer("push", "", "the server cannot see the store, and LAION_CLICKHOUSE_MERGED is not set")
    way, place, source = found
    try:
        # The end of a Parquet file is enough to count its rows.
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
    """The path within the server's user_files, if it is below that folder."""
    with suppress(TableError):
        rows = db.rows("SELECT value FROM system.server_settings WHERE name = 'user_files_path'")
        folder = Path(str(rows[0][0])) if rows else Path()
        if folder.is_absolute() and path.is_relative_to(folder.resolve()):
            return str(path.relative_to(folder.resolve()))
    return None


def insert_file(db: Database, staging: str, merged: MergedShard, transfer: Transfer, inserted: Rows | None) -> None:
    """Inserts the rows of the file into a staging table (quoted), part by part. Raises `TableError`.

    On a server every statement has an id that we chose. Statements that we cannot follow any more are killed.
    """
    columns = [name for name in table_columns(db) if name in parquet_columns(db)]
    query_id = f"laion_assets-{db.settings.table}-{merged.shard}-{uuid.uuid4()}"
    if transfer.source:
        with killing(db, query_id):
            _pull(db, staging, merged, transfer.source, columns, query_id, inserted)
    else:
        push_file(db, staging, merged, columns, query_id, inserted)


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
    for row in range(0, rows, inserting.STATEMENT_ROWS):
        taken = min(inserting.STATEMENT_ROWS, rows - row)
        # Row groups outside these ids are skipped by their statistics. The first and the last statement have no outer
        # bound, so that a row with an id of another shard is staged, and then found by the check.
        low = f"id >= {first + row}" if row else "1"
        high = f"id < {first + row + taken}" if row + taken < rows else "1"
        db.command(
            f"INSERT INTO {staging} ({listed}, shard) SELECT {listed}, {merged.shard} FROM {source} "
            f"WHERE {low} AND {high}",
            settings=insert_settings(taken, f"{query_id}-{row}"),
        )
        if inserted is not None:
            inserted(taken)


def release_memory(db: Database) -> None:
    """Returns free memory to the system between stages, so that a step's peak is its largest stage, not their sum."""
    if db.embedded:
        db.command("SYSTEM JEMALLOC PURGE")
