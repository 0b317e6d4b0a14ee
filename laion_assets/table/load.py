"""Loads a merged Parquet file as one partition: staged, made one part, checked, swapped in. It builds no index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import TableError
from laion_assets.shard.merged import MergedShard
from laion_assets.table.connect import Database
from laion_assets.table.parquet_source import parquet_columns, parquet_source
from laion_assets.table.schema import (
    create_staging,
    create_table,
    drop_staging,
    drop_stale_staging,
    table_columns,
)
from laion_assets.table.verify import check_equal_to_file

INSERT_SETTINGS: dict[str, object] = {
    # Blocks in the file's order make parts whose ids do not overlap: the merge to one part was twice as fast.
    "input_format_parquet_preserve_order": 1,
    # Decoded row groups that may wait; the default of 4 GB lets memory grow with the file.
    "input_format_parquet_memory_high_watermark": 64 << 20,
    "max_threads": 2,
    "max_insert_threads": 1,
    "max_block_size": 8_192,
    # 65,536 rows of two 512-dimensional vectors are 268 MB: 16 parts for LAION's shards. With half as many rows a part
    # the merge to one part took twice the CPU time.
    "max_insert_block_size": 65_536,
    "min_insert_block_size_rows": 65_536,
    "min_insert_block_size_bytes": 1 << 30,
    "materialize_skip_indexes_on_insert": 0,
}

PUSH_ROWS = 32_768
"""Rows a request where the file is pushed to a server: one part each."""

PIECE_ROWS = 65_536
"""Rows a statement of the insert, one of its blocks, with free memory given back after each: so the peak does not grow
with the shard. It was 0.72 GB for 200,000 rows, with three blocks a statement 1.06 GB."""

Stage = Callable[[str], None]
"""Called with the name of each stage as it begins."""

Rows = Callable[[int], None]
"""Called with the rows that were inserted since the last call."""


@dataclass
class LoadedPartition:
    """A partition that stands in the table, and what its loading took.

    `fingerprint` is the sum of a hash of every row but its vectors; `seconds` is by stage.
    """

    shard: int
    rows: int
    bytes_on_disk: int
    fingerprint: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total_seconds(self) -> float:
        """Wall time of all stages."""
        return sum(self.seconds.values())


def load_partition(
    db: Database, merged: MergedShard, *, stage: Stage | None = None, inserted: Rows | None = None
) -> LoadedPartition:
    """Makes partition `merged.shard` of the table equal to the merged file, in one step for its readers.

    Raises `PartitionCheckError` when what was staged is not what the file holds, or not sound, and `TableError` when
    the engine fails; the table is then as it was before.
    """
    timer = _StageTimer(stage)
    create_table(db)
    drop_stale_staging(db)
    if merged.rows == 0:
        # REPLACE PARTITION refuses an empty source (36): a shard without rows is a partition that is not there.
        db.command(f"ALTER TABLE {db.table} DROP PARTITION {merged.shard}")
        return LoadedPartition(merged.shard, 0, 0, 0, timer.seconds)
    staging = create_staging(db, merged.shard)
    try:
        with timer("insert"):
            _insert(db, staging, merged, inserted)
        with timer("merge parts"):
            _make_one_part(db, staging, merged.shard)
        with timer("check"):
            figures = check_equal_to_file(db, staging, merged)
        with timer("replace"):
            db.command(f"ALTER TABLE {db.table} REPLACE PARTITION {merged.shard} FROM {staging}")
    finally:
        drop_staging(db, merged.shard)
    _release_memory(db)
    bytes_on_disk = _one_active_part(db, db.settings.table, merged.shard)
    return LoadedPartition(merged.shard, figures.rows, bytes_on_disk, figures.fingerprint, timer.seconds)


def _insert(db: Database, staging: str, merged: MergedShard, inserted: Rows | None) -> None:
    columns = [name for name in table_columns(db) if name in parquet_columns(db)]
    listed = ", ".join(quote_identifier(name) for name in columns)
    # A merge in the background would write rows a second time before the one merge that is wanted.
    db.command(f"SYSTEM STOP MERGES {staging}")
    if db.embedded or db.settings.store is not None:
        source = parquet_source(db, merged.path)
        first = merged.shard * ID_STRIDE
        rows = merged.rows + merged.quarantined
        for row in range(0, rows, PIECE_ROWS):
            # Row groups outside the piece are skipped by their statistics. The first and the last piece are open, so
            # that a row with an id of another shard is staged, and then found.
            low = f"id >= {first + row}" if row else "1"
            high = f"id < {first + row + PIECE_ROWS}" if row + PIECE_ROWS < rows else "1"
            db.command(
                f"INSERT INTO {staging} ({listed}, shard) SELECT {listed}, {merged.shard} FROM {source} "
                f"WHERE {low} AND {high}",
                settings=INSERT_SETTINGS,
            )
            _release_memory(db)
            if inserted is not None:
                inserted(min(PIECE_ROWS, rows - row))
    else:
        _push(db, staging, merged, columns)
    db.command(f"SYSTEM START MERGES {staging}")
    _release_memory(db)


def _push(db: Database, staging: str, merged: MergedShard, columns: list[str]) -> None:
    """Sends the file in pieces, each an Arrow stream: a server buffers a Parquet body whole."""
    shard = pa.scalar(merged.shard, pa.uint16())
    with pq.ParquetFile(merged.path) as file:
        for piece in file.iter_batches(PUSH_ROWS, columns=columns):
            table = pa.Table.from_batches([piece]).select(columns)
            table = table.append_column("shard", pa.repeat(shard, table.num_rows))
            db.client.insert_arrow(staging, table, settings={"materialize_skip_indexes_on_insert": 0})


def _make_one_part(db: Database, staging: str, shard: int) -> None:
    """One part a partition: the index is one graph a part, and a merge later would throw it away."""
    db.command(f"OPTIMIZE TABLE {staging} PARTITION {shard} FINAL", settings={"alter_sync": 2})
    _release_memory(db)
    _one_active_part(db, f"{db.settings.table}_staging_{shard}", shard)


def _one_active_part(db: Database, table: str, shard: int) -> int:
    """Bytes on disk of a partition's only active part. Raises `TableError` when there are more or none."""
    parts, size = db.one(
        "SELECT count(), sum(bytes_on_disk) FROM system.parts "
        "WHERE database = {database:String} AND table = {table:String} AND partition = {partition:String} "
        "AND active AND rows > 0",
        parameters={"database": db.database, "table": table, "partition": str(shard)},
    )
    if parts != 1:
        raise TableError(f"{db.subject}, partition {shard}", found=f"{parts} parts", expected="one part")
    return int(size)


def _release_memory(db: Database) -> None:
    """Gives free pages back between stages, so that a step's peak is its largest stage and not their sum."""
    if db.embedded:
        db.command("SYSTEM JEMALLOC PURGE")


class _StageTimer:
    """Times the stages and names them to whoever follows."""

    def __init__(self, stage: Stage | None) -> None:
        self._stage = stage
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._stage is not None:
            self._stage(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - start
