"""How the engine itself reads a merged Parquet file: from a folder, or from the store's bucket. It loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clickhouse_connect.driver.binding import format_str, quote_identifier

from laion_assets.errors import TableError
from laion_assets.shard.bucket import bucket_errors
from laion_assets.shard.files import Location
from laion_assets.table.database import Database
from laion_assets.table.schema import PAGE_COLUMNS, VECTOR_COLUMNS

if TYPE_CHECKING:
    from upath import UPath


def parquet_columns(db: Database) -> dict[str, str]:
    """Name and ClickHouse type of the columns that a merged file has."""
    vectors = db.settings.dataset.vector_columns
    page = {name: kind for name, kind in PAGE_COLUMNS.items() if name not in VECTOR_COLUMNS or name in vectors}
    return {**page, **db.settings.extra_column_types}


def parquet_source(db: Database, location: Location) -> str:
    """The table function for a merged file, with our types (inferred types are Nullable): `file()`, or `s3()`.

    It contains no credentials. The embedded engine uses those of its process (AWS_*), a server its own. If
    LAION_STORE_COLLECTION names one of the engine's named collections, address and credentials come from it. Raises
    `TableError` for a path that ClickHouse would read as a pattern, `StoreError` if a bucket has no address.
    """
    if isinstance(location, Path):
        return table_function(db, "file", str(location))
    collection, store = db.settings.store_collection, db.settings.store
    if collection is not None and store is not None:
        key = str(location).removeprefix(f"{store}/")
        name = quote_identifier(collection)
        return f"s3({name}, filename = {format_str(key)}, format = 'Parquet', structure = {_structure(db)})"
    return table_function(db, "s3", _http_url(location))


def table_function(db: Database, function: str, place: str) -> str:
    """`file`, `s3`, `gcs` or `url` for a merged file at a place known to the engine, with our types.

    Raises `TableError` for a place that ClickHouse would read as a pattern.
    """
    if any(sign in place for sign in "*?{}"):
        raise TableError(
            place, found="a pattern's signs (* ? { })", expected="a path without them", advice="move LAION_DATA_DIR"
        )
    return f"{function}({format_str(place)}, 'Parquet', {_structure(db)})"


def _structure(db: Database) -> str:
    columns = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in parquet_columns(db).items())
    return str(format_str(columns))


def _http_url(location: UPath) -> str:
    """The object's address as this process's client knows it: ClickHouse itself does not resolve `s3://`."""
    with bucket_errors(str(location)):
        return f"{location.fs.s3.meta.endpoint_url.rstrip('/')}/{location.path}"
