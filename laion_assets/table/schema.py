"""The DDL of the table and of tables of its shape, and whether an existing table is ours. It moves no rows."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from clickhouse_connect.driver.binding import format_str, quote_identifier

from laion_assets.errors import TableError, TableShapeError
from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.shard_parts import shard_parts

PAGE_COLUMNS = {
    "id": "Int64",
    "url": "String",
    "caption": "String",
    "NSFW": "String",
    "similarity": "Float32",
    "image_embedding": "Array(Float32)",
    "text_embedding": "Array(Float32)",
}
"""Names, types and order of the columns on ClickHouse's LAION-400M page: its queries run on our table unchanged."""

VECTOR_COLUMNS = ("image_embedding", "text_embedding")

TEXT_BLOCK_BYTES = 4096
"""Bytes of text before compression: to read one row, a whole block is decompressed (benchmarks/granules.py)."""


@dataclass(frozen=True)
class PartitionState:
    """One loaded partition: its shard, rows, active parts, and bytes on disk of data and of indexes.

    `deleted_rows` is whether a lightweight DELETE has marked rows of a part as deleted, or a patch part of a
    lightweight UPDATE or DELETE waits to be applied. Until the part is written again the old rows are in its files and
    its graphs, and count in `rows`.
    """

    shard: int
    rows: int
    parts: int
    bytes_on_disk: int
    index_bytes: int
    deleted_rows: bool = False


def table_columns(db: Database) -> dict[str, str]:
    """Name and type of every column, in order: the page's seven, `shard`, then the extra columns."""
    return {**PAGE_COLUMNS, "shard": "UInt16", **db.settings.extra_column_types}


def create_table(db: Database) -> None:
    """Creates the table if it does not exist. Raises `TableShapeError` if one of that name has another shape."""
    if not table_exists(db):
        db.command(table_definition(db, db.settings.table) + dataset_comment(db))
    require_shape(db)


OF_DATASET = "laion_assets: shards of the dataset "
"""How the comments of tables begin. The dataset's name follows, and in tables of newer versions also the shape."""


def dataset_comment(db: Database) -> str:
    """A comment that names the dataset: to ClickHouse partition 3 of two datasets is the same partition."""
    return f" COMMENT {format_str(OF_DATASET + _identity(db.settings) + _extra(db.settings))}"


def _identity(settings: Settings) -> str:
    """What must be equal for shards in the same table: the dataset's name, its dimension, whether it has texts, and how
    its files are cut into shards."""
    dataset = settings.dataset
    texts = "with text vectors" if dataset.has_text else "without text vectors"
    return f"{dataset.name}; dimension {dataset.dimension}, {texts}" + (f", {dataset.cut}" if dataset.cut else "")


def _extra(settings: Settings) -> str:
    """The end of the comment: the extra columns."""
    names = ", ".join(settings.extra_column_types)
    return f"; extra columns {names}" if names else ""


def table_exists(db: Database) -> bool:
    """Whether there is a table of that name, of any shape.

    Raises `TableShapeError` if it is for another dataset, or for the same dataset with another dimension, with or
    without text vectors, with files that are cut into shards in another way, or with other extra columns.
    """
    comments = db.rows(
        "SELECT comment FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        parameters={"database": db.database, "table": db.settings.table},
    )
    expected = _identity(db.settings)
    for (comment,) in comments:
        found = str(comment).removeprefix(OF_DATASET).partition("; extra columns ")[0]
        if not str(comment).startswith(OF_DATASET):
            continue
        if found == db.settings.dataset.name:
            # The comment of an older table has only the name, so the rest is found from its rows.
            found = _identity_of_rows(db)
        if found != expected:
            raise TableShapeError(
                db.subject,
                found=f"shards of the dataset {found}",
                expected=f"those of {expected}",
                advice="each dataset needs a LAION_TABLE, a LAION_DATA_DIR and a DAGSTER_HOME of its own; one that was "
                "described or embedded in another way is another dataset",
            )
        if str(comment) not in (OF_DATASET + db.settings.dataset.name, OF_DATASET + expected + _extra(db.settings)):
            require_shape(db)
    return bool(comments)


def _identity_of_rows(db: Database) -> str:
    """The text of `_identity`, from the table's first row; from the settings if it has no rows."""
    rows = db.rows(f"SELECT length(image_embedding), length(text_embedding) FROM {db.table} LIMIT 1")
    if not rows:
        return _identity(db.settings)
    texts = "with text vectors" if rows[0][1] else "without text vectors"
    return f"{db.settings.dataset.name}; dimension {rows[0][0]}, {texts}"


def require_table(db: Database) -> None:
    """Raises `TableError` if the table does not exist, `TableShapeError` if it is not ours."""
    if not table_exists(db):
        raise TableError(
            db.subject,
            found="no such table",
            advice="load a shard first: laion-assets load 0, or materialize clickhouse_partition",
        )
    require_shape(db)


def require_shape(db: Database) -> None:
    """Raises `TableShapeError`, which names every difference, unless the table has our columns and keys."""
    names = {"database": db.database, "table": db.settings.table}
    found = {
        str(name): str(kind)
        for name, kind in db.rows(
            "SELECT name, type FROM system.columns WHERE database = {database:String} AND table = {table:String} "
            "ORDER BY position",
            parameters=names,
        )
    }
    expected = table_columns(db)
    differences = [f"no column {name} {kind}" for name, kind in expected.items() if name not in found]
    differences += [
        f"column {name} {found[name]} where we have {kind}"
        for name, kind in expected.items()
        if name in found and found[name] != kind
    ]
    differences += [f"a column {name} {kind} of its own" for name, kind in found.items() if name not in expected]
    engine, partition_key, sorting_key = db.one(
        "SELECT engine, partition_key, sorting_key FROM system.tables "
        "WHERE database = {database:String} AND name = {table:String}",
        parameters=names,
    )
    ours = engine == "Distributed" if db.settings.cluster is not None else str(engine).endswith("MergeTree")
    keys = ("", "") if db.settings.cluster is not None else ("shard", "id")
    if not ours or (partition_key, sorting_key) != keys:
        differences.append(f"ENGINE {engine} PARTITION BY {partition_key or 'nothing'} ORDER BY {sorting_key}")
    if differences:
        raise TableShapeError(
            db.subject,
            found="; ".join(differences),
            expected="the table that laion_assets makes",
            advice="name another table in LAION_TABLE, set LAION_EXTRA_COLUMNS as it was, or drop the table",
        )


def partitions(db: Database) -> list[PartitionState]:
    """Every loaded partition, by shard; empty if there is no table.

    Parts without rows are not counted: REPLACE and DROP PARTITION leave an empty part in the place of the old one. It
    is active if the folder was closed and opened in between, until the engine removes it.
    """
    if not table_exists(db):
        return []
    columns = "rows, bytes_on_disk, secondary_indices_uncompressed_bytes, has_lightweight_delete"
    table = local_table(db.settings)
    states = []
    for shard, parts in shard_parts(db, parts_table(db), columns, table)[table].items():
        rows, size, index, deleted = (sum(map(int, column)) for column in zip(*parts.own, strict=True))
        changed = bool(deleted or parts.patches)
        states.append(PartitionState(shard, rows, len(parts.own), size, index, deleted_rows=changed))
    return states


def live_partitions(db: Database) -> list[PartitionState]:
    """The same partitions, whose `rows` leave out those that a lightweight DELETE has marked as deleted."""
    states = partitions(db)
    marked = [state.shard for state in states if state.deleted_rows]
    if not marked:
        return states
    listed = ", ".join(map(str, marked))
    found = db.rows(f"SELECT shard, count() FROM {db.table} WHERE shard IN ({listed}) GROUP BY shard")
    live = dict.fromkeys(marked, 0) | {int(shard): int(count) for shard, count in found}
    return [replace(state, rows=live.get(state.shard, state.rows)) for state in states]


def without_shards(db: Database, shards: Set[int]) -> tuple[int, ...] | None:
    """The loaded partitions that are not among these; None if that is every loaded one. Raises `TableError`."""
    loaded = [state.shard for state in partitions(db)]
    return None if shards.isdisjoint(loaded) else tuple(shard for shard in loaded if shard not in shards)


def local_table(settings: Settings) -> str:
    """The table that holds rows; in a cluster, that is the table on each node under the Distributed one."""
    return settings.table if settings.cluster is None else f"{settings.table}_local"


def parts_table(db: Database) -> str:
    """`system.parts`; in a cluster, that of one replica of each cluster shard."""
    return (
        "system.parts" if db.settings.cluster is None else f"cluster({format_str(db.settings.cluster)}, system.parts)"
    )


def table_definition(db: Database, table: str, *, engine: str = "MergeTree") -> str:
    """One template for the table and its staging tables, since REPLACE PARTITION requires equal structures.

    - index_granularity: rows a granule. ClickHouse's 8192 rows of 4 kB make granules of 10 MB (its limit of bytes a
      granule). A search reads a granule for each row of its answer or each candidate that it rescores, and a merge
      holds one of every part. With 64 rows, a search took 6.0 ms of CPU time and one that rescores 50 candidates 12.4
      ms; with 512 rows 7.6 and 27.9 ms. Scans and loads cost the same (benchmarks/granules.py). A partition keeps the
      granules with which it was loaded.
    - {min,max}_compress_block_size of texts: 7.6 ms a search; with ClickHouse's own block size 10.6.
    - materialize_skip_indexes_on_merge = 0: a graph is built only when it is asked for, never by a background merge.
    - vertical_merge_algorithm_…: the merge to one part goes column by column, also with fewer than 11 columns: the ids
      give the order, then one column after the other is copied. It took 2.0 CPU seconds; all columns at once took 2.9
      (200,000 rows in parts of 65,536).
    - fsync_part_directory: a part's folder is synced when it gets its name; see staging.py for its files.
    """
    columns = ",\n  ".join(_column_definition(db, name, kind) for name, kind in table_columns(db).items())
    return (
        f"CREATE TABLE IF NOT EXISTS {db.name_of(table)} (\n  {columns}\n) "
        f"ENGINE = {engine} PARTITION BY shard ORDER BY id "
        f"SETTINGS index_granularity = {db.settings.index_granularity}, materialize_skip_indexes_on_merge = 0, "
        "vertical_merge_algorithm_min_columns_to_activate = 1, vertical_merge_algorithm_min_rows_to_activate = 1, "
        "fsync_part_directory = 1"
    )


def storage_policy(db: Database) -> str:
    """`storage_policy = …` for tables that exchange parts with the table; empty for the default policy, and if there is
    no table. Parts can only be linked to a table whose policy has their disk. Raises `TableError`."""
    rows = db.rows(
        "SELECT storage_policy FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        parameters={"database": db.database, "table": local_table(db.settings)},
    )
    name = str(rows[0][0]) if rows else ""
    return f"storage_policy = {format_str(name)}" if name not in ("", "default") else ""


def _column_definition(db: Database, name: str, kind: str) -> str:
    quoted = quote_identifier(name)
    if name in VECTOR_COLUMNS:
        return f"{quoted} {kind} CODEC({db.settings.vector_codec})"
    if kind == "String" and TEXT_BLOCK_BYTES:
        size = f"min_compress_block_size = {TEXT_BLOCK_BYTES}, max_compress_block_size = {TEXT_BLOCK_BYTES}"
        return f"{quoted} {kind} SETTINGS ({size})"
    return f"{quoted} {kind}"
