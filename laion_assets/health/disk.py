"""Whether the disks have room for the rest of a load, estimated from its loaded shards."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from laion_assets.dataset import Dataset
from laion_assets.health.finding import Finding, TableLook
from laion_assets.health.history import ShardHistory
from laion_assets.index.parameters import IndexParameters
from laion_assets.settings import Settings

MERGED_BYTES_A_VALUE = 1.8
"""Bytes of a merged file for each vector element: 1,850 for two vectors of 512 (benchmarks/merge_encodings.py)."""

TABLE_BYTES_A_VALUE = 4.1
"""Bytes of the table for each vector element with CODEC(NONE): 4,190 for two vectors of 512, texts included."""

RAW_TEXT_BYTES = 155
"""Bytes of metadata for each row, beside its vectors."""


def disk_space_suffices(
    settings: Settings, histories: list[ShardHistory], free_bytes: int, table: TableLook | None = None
) -> Finding:
    """Whether the store's disk, of which `free_bytes` are free, has room for the rest of the load; and the embedded
    engine's disk, if it is another.

    The rows of a shard are known if the dataset's file has `default_rows`, or once a shard is loaded. Until then the
    finding is unknown.
    """
    needed = bytes_still_needed(settings, histories, table)
    if needed is None:
        seen = f"{free_bytes / 1e9:,.0f} GB free; the disk space that the load needs is known when a shard is loaded"
        return Finding("disk_space_suffices", None, seen, {"free_gb": free_bytes / 1e9})
    figures = {"free_gb": free_bytes / 1e9, "needed_gb": needed.store / 1e9}
    seen = f"{free_bytes / 1e9:,.0f} GB free, about {needed.store / 1e9:,.0f} GB needed for the rest"
    if needed.engine is None:
        return Finding("disk_space_suffices", free_bytes > needed.store, seen, figures)
    beside = free_bytes_of(needed.engine)
    seen += f"; {beside / 1e9:,.0f} GB free in {needed.engine}, about {needed.table / 1e9:,.0f} GB needed"
    figures["free_gb_of_engine"] = beside / 1e9
    return Finding("disk_space_suffices", free_bytes > needed.store and beside > needed.table, seen, figures)


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes that shards not loaded yet will take: `store` on the store's disk, `table` for the table. If both are on
    one disk, `store` includes `table`; else `engine` is the embedded engine's folder, on the other disk."""

    store: int
    table: int
    engine: Path | None = None


def bytes_still_needed(
    settings: Settings, histories: list[ShardHistory], table: TableLook | None = None
) -> DiskNeeds | None:
    """What the shards that are not loaded will take: merged files, and table and indexes if the engine is embedded, and
    the raw files of the two shards in progress, or of all shards if raw files are kept.

    Bytes a row are those of the loaded shards, by `table` and their histories, else the dataset's. If the store is a
    bucket, only files of shards in progress are on the disk. None if no shard's number of rows is known.
    """
    dataset = settings.dataset
    waiting = [history for history in histories if history.progress != "loaded"]
    rows = _typical_rows(dataset, histories)
    if rows is None and waiting:
        return None
    rows = rows or 0
    total_rows = sum(dataset.known_rows(history.shard) or rows for history in waiting)
    values = dataset.dimension * len(dataset.vector_columns)
    under_way = min(total_rows, 2 * rows)
    merged_rows = under_way if settings.store is not None else total_rows if settings.keep_merged else 0
    raw_rows = total_rows if settings.keep_raw and settings.store is None else under_way
    files = round(merged_rows * values * MERGED_BYTES_A_VALUE + raw_rows * _raw_bytes_a_row(dataset, histories))
    if not settings.clickhouse_url.get_secret_value().startswith("chdb:"):
        return DiskNeeds(files, 0)
    in_table = round(total_rows * _table_bytes_a_row(settings, table))
    engine = Path(unquote(urlsplit(settings.clickhouse_url.get_secret_value()).path))
    if _disk_of(engine) == _disk_of(settings.data_dir):
        return DiskNeeds(files + in_table, in_table)
    return DiskNeeds(files, in_table, engine)


def _table_bytes_a_row(settings: Settings, table: TableLook | None) -> float:
    """With both indexes, built or not; the effect of a codec is known when something is loaded."""
    dataset = settings.dataset
    vectors = len(dataset.vector_columns)
    graphs = IndexParameters.of(settings).bytes_a_vector(dataset.dimension) * vectors
    loaded = table if isinstance(table, list) else []
    rows = sum(state.rows for state in loaded)
    if not rows:
        return dataset.dimension * vectors * TABLE_BYTES_A_VALUE + graphs
    columns = sum(max(0, state.bytes_on_disk - state.index_bytes) for state in loaded)
    return columns / rows + graphs


def _raw_bytes_a_row(dataset: Dataset, histories: list[ShardHistory]) -> float:
    """By the fetched shards, whose vectors may be float16 or float32; else by LAION's files."""
    known = [history for history in histories if history.raw_bytes and history.rows]
    if known:
        return sum(history.raw_bytes for history in known) / sum(history.rows for history in known)
    return dataset.dimension * len(dataset.vector_columns) * 2 + RAW_TEXT_BYTES


def free_bytes_of(folder: Path) -> int:
    """Free bytes on the disk of a folder. The folder need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def _disk_of(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _typical_rows(dataset: Dataset, histories: list[ShardHistory]) -> int | None:
    loaded = [history.rows for history in histories if history.rows]
    return dataset.default_rows or (sum(loaded) // len(loaded) if loaded else None)
