"""Whether all is well: judgements over shard histories, the table and the disk. Checks and commands show them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from laion_assets.dataset import Dataset
from laion_assets.errors import EngineHeldError
from laion_assets.health.history import ShardHistory, hours_since_last_load
from laion_assets.index.graphs import IndexParameters
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import PartitionState, partitions

MERGED_BYTES_A_VALUE = 1.8
"""Bytes of a merged file a vector element: 1,850 for two vectors of 512 (benchmarks/merge_encodings.py)."""

TABLE_BYTES_A_VALUE = 4.1
"""Bytes of the table a vector element with CODEC(NONE): 4,190 for two vectors of 512, texts included."""

RAW_TEXT_BYTES = 155
"""Of metadata a row, beside its vectors."""

TableLook = list[PartitionState] | EngineHeldError
"""The table's partitions, or who holds the embedded engine, so that they could not be looked at."""


NAMED = 5
"""Failed shards that a finding names."""


@dataclass(frozen=True)
class Finding:
    """One judgement: its check's name, whether all is well (None: it could not be told), what was seen in one line."""

    check: str
    passed: bool | None
    seen: str


def look_at_table(settings: Settings, *, wait_seconds: float | None = None) -> TableLook:
    """The table's partitions; where another process holds the embedded engine for longer than `wait_seconds` (None: the
    settings' own), that fact. It is no failure: a load or a build holds it for as long as it works.

    Raises `TableError` when the table cannot be asked for another reason.
    """
    try:
        with connect(settings, wait_seconds=wait_seconds) as db:
            return partitions(db)
    except EngineHeldError as error:
        return error


def judge(settings: Settings, histories: list[ShardHistory], table: TableLook, free_bytes: int) -> list[Finding]:
    """Every finding, in the order in which a person would ask."""
    return [
        no_shards_left_failed(histories),
        table_agrees_with_dagster(histories, table),
        ingest_is_moving(histories, settings.stalled_hours),
        disk_space_suffices(settings, histories, free_bytes, table),
    ]


def no_shards_left_failed(histories: list[ShardHistory]) -> Finding:
    """No shard whose last run failed is left."""
    failed = [history for history in histories if history.state == "failed"]
    shown = "; ".join(_failure(history) for history in failed[:NAMED])
    seen = f"{len(failed)} shards failed: {shown}" if failed else "no shard is left failed"
    return Finding("no_shards_left_failed", not failed, seen)


def _failure(history: ShardHistory) -> str:
    """A failed shard with its error, which names the shard already where it is one of ours."""
    name = f"shard {history.key}"
    return history.error if history.error.startswith((f"{name}:", f"{name},")) else f"{name}: {history.error}"


def table_agrees_with_dagster(histories: list[ShardHistory], table: TableLook) -> Finding:
    """Partitions and rows of the table are those that Dagster recorded, either way. Shards that run are left out."""
    if isinstance(table, EngineHeldError):
        return Finding("table_agrees_with_dagster", None, f"not looked at: {table.subject}: {table.found}")
    in_table = {str(state.shard): state.rows for state in table}
    known = {history.key for history in histories}
    drift = [f"shard {shard}: in the table, unknown to the dataset" for shard in in_table if shard not in known]
    for history in histories:
        if history.state in ("running", "queued"):
            continue
        recorded = history.rows if history.loaded_at is not None else 0
        found = in_table.get(history.key, 0)
        if recorded != found:
            drift.append(f"shard {history.key}: {found:,} rows in the table, {recorded:,} by Dagster")
    seen = "; ".join(drift[:10]) + (f"; and {len(drift) - 10} more" if len(drift) > 10 else "")
    return Finding("table_agrees_with_dagster", not drift, seen or f"{len(in_table)} partitions agree")


def ingest_is_moving(histories: list[ShardHistory], stalled_hours: float) -> Finding:
    """Where shards are missing, one was loaded within `stalled_hours`; a load that was never begun is not stalled."""
    missing = sum(history.state != "loaded" for history in histories)
    hours = hours_since_last_load(histories)
    if missing == 0:
        return Finding("ingest_is_moving", True, "all shards are loaded")
    if hours is None:
        return Finding("ingest_is_moving", True, f"{missing} shards are missing; none was loaded yet")
    return Finding(
        "ingest_is_moving",
        hours <= stalled_hours,
        f"{missing} shards are missing; the last was loaded {hours:.1f} h ago",
    )


def disk_space_suffices(
    settings: Settings, histories: list[ShardHistory], free_bytes: int, table: TableLook | None = None
) -> Finding:
    """The disk of the store, of which `free_bytes` are free, has room for what the rest of the load needs; and that of
    the embedded engine, where it is another.

    How many rows a shard has is known where the dataset's file says `default_rows`, else when one is loaded: until
    then it could not be told.
    """
    needed = bytes_still_needed(settings, histories, table)
    if needed is None:
        seen = f"{free_bytes / 1e9:,.0f} GB free; what the load needs can be told when a shard is loaded"
        return Finding("disk_space_suffices", None, seen)
    seen = f"{free_bytes / 1e9:,.0f} GB free, about {needed.store / 1e9:,.0f} GB needed for the rest"
    if needed.engine is None:
        return Finding("disk_space_suffices", free_bytes > needed.store, seen)
    beside = free_bytes_of(needed.engine)
    seen += f"; {beside / 1e9:,.0f} GB free in {needed.engine}, about {needed.table / 1e9:,.0f} GB needed"
    return Finding("disk_space_suffices", free_bytes > needed.store and beside > needed.table, seen)


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes that shards which are not loaded will take: on the store's disk, all included, and of these or beside them
    the table's. `engine` is the embedded engine's folder where it lies on another disk than the store."""

    store: int
    table: int
    engine: Path | None = None


def bytes_still_needed(
    settings: Settings, histories: list[ShardHistory], table: TableLook | None = None
) -> DiskNeeds | None:
    """What the shards that are not loaded will take: merged files, table and indexes where the engine is embedded, and
    the raw files of the two shards that are under way, or of all where they are kept.

    Bytes a row are those of the loaded shards, by `table` and their histories, else the dataset's. Of a bucket's files
    only those under way lie on the disk. None where nothing is known of the rows of a shard.
    """
    dataset = settings.dataset
    waiting = [history for history in histories if history.state != "loaded"]
    rows = _typical_rows(dataset, histories)
    if rows is None and waiting:
        return None
    rows = rows or 0
    total_rows = sum(dataset.known_rows(int(history.key)) or rows for history in waiting)
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
    """With both indexes, built or not; a codec's share is known when something is loaded."""
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
    """As the shards that were fetched have them, whose vectors may be float16 or float32; else as LAION has them."""
    known = [history for history in histories if history.raw_bytes and history.rows]
    if known:
        return sum(history.raw_bytes for history in known) / sum(history.rows for history in known)
    return dataset.dimension * len(dataset.vector_columns) * 2 + RAW_TEXT_BYTES


def free_bytes_of(folder: Path) -> int:
    """Bytes free on the disk of a folder, which need not exist yet."""
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
