"""Loads a merged Parquet file as one partition: staged, made one part, checked, swapped in. It builds no index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.shard.merged import MergedShard
from laion_assets.table.connect import Database
from laion_assets.table.fingerprint import file_fingerprint
from laion_assets.table.inserting import Rows
from laion_assets.table.mutations import POLL_SECONDS
from laion_assets.table.schema import create_staging, create_table, drop_staging
from laion_assets.table.scratch import drop_stale_staging
from laion_assets.table.transfer import choose_transfer, insert_file, release_memory
from laion_assets.table.verify import check_equal_to_file

Stage = Callable[[str], None]
"""Called with the name of each stage as it begins."""

Log = Callable[[str], None]


@dataclass
class LoadedPartition:
    """A partition that stands in the table, and what its loading took.

    `fingerprint` is the sum of a hash of every row but its vectors; `seconds` is by stage; `transfer` says how the file
    reached the engine, and why so.
    """

    shard: int
    rows: int
    bytes_on_disk: int
    fingerprint: int
    seconds: dict[str, float] = field(default_factory=dict)
    transfer: str = ""

    @property
    def total_seconds(self) -> float:
        """Wall time of all stages."""
        return sum(self.seconds.values())


def load_partition(
    db: Database,
    merged: MergedShard,
    *,
    stage: Stage | None = None,
    inserted: Rows | None = None,
    log: Log | None = None,
) -> LoadedPartition:
    """Makes partition `merged.shard` of the table equal to the merged file, in one step for its readers.

    Done again after a failure, it begins with an empty staging table. Raises `PartitionCheckError` when what was staged
    is not what the file holds, or not sound, and `TableError` when the engine fails; the table is then as it was
    before, or, where only the answer to the swap was lost, has the new rows.
    """
    timer = _StageTimer(stage)
    db = db.patient()
    create_table(db)
    drop_stale_staging(db)
    if merged.rows == 0:
        # REPLACE PARTITION refuses an empty source (36): a shard without rows is a partition that is not there.
        db.command(f"ALTER TABLE {db.table} DROP PARTITION {merged.shard}")
        return LoadedPartition(merged.shard, 0, 0, 0, timer.seconds)
    transfer = choose_transfer(db, merged)
    if log is not None:
        log(f"shard {merged.shard}, {transfer}")
    with _staging(db, merged.shard) as staging, ThreadPoolExecutor(max_workers=1) as beside:
        with timer("insert"):
            insert_file(db, staging, merged, transfer, inserted)
            release_memory(db)
        # The engine merges on one core.
        in_file = beside.submit(file_fingerprint, db.settings, merged)
        with timer("merge parts"):
            _make_one_part(db, staging, merged.shard)
        with timer("check"):
            figures = check_equal_to_file(db, staging, merged, in_file.result())
        with timer("replace"):
            _swap_in(db, staging, merged.shard)
    release_memory(db)
    size = _one_active_part(db, db.settings.table, merged.shard)
    return LoadedPartition(merged.shard, figures.rows, size, figures.fingerprint, timer.seconds, str(transfer))


COVER_BYTES = 16 << 20
"""REPLACE PARTITION (26.9) lets the new part stand, then reserves 1 MiB for an empty part that covers the replaced one.
Where that fails, both stand once the engine is opened again, each row twice. Others may write to the disk meanwhile."""


@contextmanager
def _staging(db: Database, shard: int) -> Iterator[str]:
    """An empty staging table, by its quoted name; it goes at the end.

    A server that is gone keeps it until the next load of the shard, which begins by dropping it.
    """
    staging = create_staging(db, shard)
    try:
        yield staging
    except ServerUnreachableError:
        with suppress(TableError):
            drop_staging(db, shard)
        raise
    except BaseException:
        drop_staging(db, shard)
        raise
    drop_staging(db, shard)


def _swap_in(db: Database, staging: str, shard: int) -> None:
    _require_room(db, shard)
    db.command(f"ALTER TABLE {db.table} REPLACE PARTITION {shard} FROM {staging}")


def _make_one_part(db: Database, staging: str, shard: int) -> None:
    """One part a partition: the index is one graph a part, and a merge later would throw it away.

    What was inserted as one part stays as it is: FINAL would write it again. A connection that is cut meanwhile leaves
    the merge running: it is waited for.
    """
    if _active_parts(db, f"{db.settings.table}_staging_{shard}", shard)[0] == 1:
        return
    try:
        db.command(f"OPTIMIZE TABLE {staging} PARTITION {shard} FINAL", settings={"alter_sync": 2})
    except ServerUnreachableError:
        _wait_for_merges(db, f"{db.settings.table}_staging_{shard}")
        db.command(f"OPTIMIZE TABLE {staging} PARTITION {shard} FINAL", settings={"alter_sync": 2})
    release_memory(db)
    _one_active_part(db, f"{db.settings.table}_staging_{shard}", shard)


def _require_room(db: Database, shard: int) -> None:
    """Refuses the swap where the disk may have no room for the part that covers the replaced one."""
    (free,) = db.one(
        "SELECT min(unreserved_space) FROM system.disks WHERE name IN "
        "(SELECT disk_name FROM system.parts WHERE database = {database:String} AND table = {table:String} AND active)",
        parameters={"database": db.database, "table": f"{db.settings.table}_staging_{shard}"},
    )
    if int(free) < COVER_BYTES:
        raise TableError(
            f"{db.subject}, partition {shard}",
            found=f"{int(free):,} bytes left on the disk of the table",
            expected=f"at least {COVER_BYTES:,}, or a swap could leave the replaced rows beside the new ones",
            advice="free some space and load the shard again; the table is as it was",
        )


def _wait_for_merges(db: Database, table: str) -> None:
    """Until the table has no merge under way, as long as a statement of a load may take. Raises `TableError`."""
    deadline = time.monotonic() + db.seconds
    while db.rows(
        "SELECT 1 FROM system.merges WHERE database = {database:String} AND table = {table:String}",
        parameters={"database": db.database, "table": table},
    ):
        if time.monotonic() >= deadline:
            raise TableError(db.subject, found=f"a merge of {table} after {db.seconds:g} s", expected="its end")
        time.sleep(POLL_SECONDS)


def _one_active_part(db: Database, table: str, shard: int) -> int:
    """Bytes on disk of a partition's only active part. Raises `TableError` when there are more or none."""
    parts, size = _active_parts(db, table, shard)
    if parts != 1:
        raise TableError(f"{db.subject}, partition {shard}", found=f"{parts} parts", expected="one part")
    return size


def _active_parts(db: Database, table: str, shard: int) -> tuple[int, int]:
    """How many active parts with rows a partition has, and their bytes on disk."""
    parts, size = db.one(
        "SELECT count(), sum(bytes_on_disk) FROM system.parts "
        "WHERE database = {database:String} AND table = {table:String} AND partition = {partition:String} "
        "AND active AND rows > 0",
        parameters={"database": db.database, "table": table, "partition": str(shard)},
    )
    return int(parts), int(size)


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
