"""DDL of the tables of cells and centroids, and a check that the engine has what they need. It moves no rows."""

from __future__ import annotations

import re

from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.errors import TableError
from laion_assets.table.database import Database
from laion_assets.table.schema import VECTOR_COLUMNS, table_columns
from laion_assets.table.vectors import By

METHOD = "turboquant"
"""Two bits a dimension and four bytes: 132 bytes a vector of 512. With 10 candidates a neighbour it found .944 to .976;
one bit (rabitq, 68 bytes) found .70 to .96. Reading more candidates costs more than scanning larger codes."""

DIMENSION_STEP = 8
"""The codec takes dimensions that are multiples of eight. Shorter vectors get zeros at the end; cosines stay the
same."""

GRANULE_ROWS = 64
"""Rows in a granule. Each candidate is read with its whole granule, 66 kB of 512 BFloat16."""

MERGED_PARTS = 32
"""merge_selector_base: only this many parts of similar size are merged in the background at once. With the engine's
default of 5, parts of 410 shards would be written five times, and each time their codes are computed again."""

CODEC_SETTINGS: dict[str, object] = {"enable_quantized_codec": 1}
"""Settings that CREATE TABLE, INSERT and every merge started by a statement need."""


def cells_table(db: Database, by: By) -> str:
    """The unquoted name of the cells of a vector column."""
    return f"{db.settings.table}_{by}_cells"


def centroids_table(db: Database) -> str:
    """The unquoted name of the table of all generations of centroids."""
    return f"{db.settings.table}_centroids"


def events_table(db: Database) -> str:
    """The unquoted name of the table that says which rows of the cells count."""
    return f"{db.settings.table}_cells_events"


def cells_exist(db: Database) -> bool:
    """Whether there are tables of cells of the present layout, which has the column `content` in its record."""
    names = {"database": db.database, "table": events_table(db)}
    sql = "SELECT 1 FROM system.columns WHERE database = {database:String} AND table = {table:String}"
    return bool(db.rows(f"{sql} AND name = 'content'", parameters=names))


def _have_another_shape(db: Database) -> bool:
    """Whether a table of cells has other columns than the table now, or codes of another method or dimension.

    The table of that name was dropped, then, and loaded again in another shape.
    """
    for by in vector_columns(db):
        rows = db.rows(
            "SELECT name, type, compression_codec FROM system.columns "
            "WHERE database = {database:String} AND table = {table:String} ORDER BY position",
            parameters={"database": db.database, "table": cells_table(db, by)},
        )
        found = {str(name): str(kind) for name, kind, _ in rows}
        codecs = {str(name): str(codec) for name, _, codec in rows}
        if rows and (
            found != _cells_columns(db) or not re.search(rf"{re.escape(_codes(db))}[,)]", codecs["cells_vector"])
        ):
            return True
    return False


def _cells_columns(db: Database) -> dict[str, str]:
    """Name and type of each column of the cells, in order."""
    columns = table_columns(db)
    own = {"cells_generation": "UInt32", "cells_cluster": "UInt32", "cells_load": "UInt64"}
    return {**own, **{name: columns[name] for name in columns_without_vectors(db)}, "cells_vector": "Array(BFloat16)"}


def _codes(db: Database) -> str:
    """The codec without its end: ClickHouse 26.9 adds a third argument."""
    return f"Quantized('{METHOD}', {code_dimension(db)}"


def vector_columns(db: Database) -> list[By]:
    """The columns that have cells."""
    return ["image", "text"] if db.settings.dataset.has_text else ["image"]


def code_dimension(db: Database) -> int:
    """Elements of a vector in the cells."""
    return padded_dimension(db.settings.dataset.dimension)


def padded_dimension(dimension: int) -> int:
    """The dimension rounded up to a multiple of eight."""
    return -(-dimension // DIMENSION_STEP) * DIMENSION_STEP


def code_bytes(dimension: int) -> float:
    """Bytes of one code: two bits a dimension and a factor of four bytes (132 at 512, as ClickHouse 26.9 stores it)."""
    return dimension / 4 + 4


def columns_without_vectors(db: Database) -> list[str]:
    """Columns that the cells copy, so that a condition is checked before the nearest rows are found."""
    return [name for name in table_columns(db) if name not in VECTOR_COLUMNS]


def require_codec(db: Database) -> None:
    """Raises `TableError` if the engine cannot store codes (before 26.7); HNSW still works there."""
    names = {"names": ["enable_quantized_codec", "vector_search_use_quantized_codes"]}
    found = db.rows("SELECT name FROM system.settings WHERE name IN {names:Array(String)}", parameters=names)
    if len(found) < len(names["names"]):
        (version,) = db.one("SELECT version()")
        raise TableError(
            db.subject,
            found=f"ClickHouse {version}, which has no codec Quantized",
            expected="26.7 or newer for cells",
            advice="set LAION_INDEX=hnsw: the HNSW indexes work there",
        )


def create_cells_tables(db: Database) -> None:
    """Makes the tables of cells, centroids and events if they do not exist. Raises `TableError`.

    Tables of an earlier layout, or of a table of another shape, are dropped first: they are derived, and are built
    again.
    """
    require_codec(db)
    if not cells_exist(db) or _have_another_shape(db):
        drop_cells_tables(db)
    db.command(
        f"CREATE TABLE IF NOT EXISTS {db.name_of(centroids_table(db))} ("
        "vectors LowCardinality(String), generation UInt32, cluster UInt32, centroid Array(Float32) CODEC(NONE)"
        ") ENGINE = MergeTree ORDER BY (vectors, generation, cluster) "
        "COMMENT 'laion_assets: centroids of the cells, by vector column and generation'"
    )
    db.command(
        f"CREATE TABLE IF NOT EXISTS {db.name_of(events_table(db))} ("
        "vectors LowCardinality(String), number UInt64, event LowCardinality(String), generation UInt32, "
        "shard UInt16, load UInt64, rows UInt64, content UInt64, clusters UInt32, "
        "distance Float64, at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')"
        ") ENGINE = MergeTree ORDER BY (vectors, number) "
        "COMMENT 'laion_assets: which rows of the cells count'"
    )
    for column in db.settings.dataset.vector_columns:
        by: By = "image" if column == "image_embedding" else "text"
        create_cells(db, cells_table(db, by))


def create_cells(db: Database, table: str, more_settings: str = "") -> None:
    """Makes one table of cells, or a staging table for it, by its unquoted name.

    ORDER BY cluster puts the rows of a cluster beside each other on disk. PARTITION BY generation lets a generation be
    dropped at once. The table is not partitioned by shard: with 65,536 clusters a shard of a million rows has 15 rows
    of each, and each further partition costs a granule for each cluster.
    """
    columns = ", ".join(
        f"{quote_identifier(name)} {kind}" + (f" CODEC({_codes(db)}))" if name == "cells_vector" else "")
        for name, kind in _cells_columns(db).items()
    )
    db.command(
        f"CREATE TABLE IF NOT EXISTS {db.name_of(table)} ({columns}) "
        "ENGINE = MergeTree PARTITION BY cells_generation ORDER BY (cells_cluster, id) "
        f"SETTINGS index_granularity = {GRANULE_ROWS}, merge_selector_base = {MERGED_PARTS}{more_settings} "
        "COMMENT 'laion_assets: derived from the table beside it; may be dropped at any time and built again'",
        settings=CODEC_SETTINGS,
    )


def drop_cells_tables(db: Database) -> None:
    """Removes all derived tables: the next build begins with nothing."""
    for name in (events_table(db), centroids_table(db), cells_table(db, "image"), cells_table(db, "text")):
        db.command(f"DROP TABLE IF EXISTS {db.name_of(name)} SYNC")
