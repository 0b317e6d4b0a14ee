"""Loads a merged Parquet file as one partition: staged, merged to one part, checked, swapped in. It builds no index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.progress import Log
from laion_assets.shard.loadable import require_loadable
from laion_assets.shard.merged import MergedShard, require_whole
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import file_fingerprint, vector_sums
from laion_assets.table.inserting import Rows
from laion_assets.table.lease import Lease, lease
from laion_assets.table.mutations import POLL_SECONDS
from laion_assets.table.parts import Part
from laion_assets.table.schema import create_table
from laion_assets.table.scratch import drop_stale_staging
from laion_assets.table.staging import MERGE_SETTINGS, Staging, staging_table
from laion_assets.table.swap import swap_in
from laion_assets.table.transfer import Transfer, choose_transfer, insert_file, release_memory
from laion_assets.table.verify import check_equal_to_file

Stage = Callable[[str], None]
"""Called with the name of each stage when it begins."""


Index = Callable[[Staging], None]
"""Builds indexes in a staged part that was checked, so that the part has them after the swap. Rows do not change."""


@dataclass
class LoadedPartition:
    """A partition of the table, and the cost of loading it.

    `fingerprint` is the sum of a hash of every row without its vectors, `vector_sums` are sums over the bits of the
    vectors, by column; `seconds` is by stage; `transfer` says how the file reached the engine, and why that way was
    chosen.
    """

    shard: int
    rows: int
    bytes_on_disk: int
    fingerprint: int
    seconds: dict[str, float] = field(default_factory=dict)
    transfer: str = ""
    vector_sums: dict[str, int] = field(default_factory=dict)

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
    index: Index | None = None,
) -> LoadedPartition:
    """Makes partition `merged.shard` of the table equal to the merged file, in one step for its readers.

    Only one load of a shard runs at a time: a second waits for the lease, or reports its holder. After a failure a new
    load begins with an empty staging table. Raises `ShardFileError` for a file that the checks of merged_shard refuse
    (so that a check that failed in an earlier run is not skipped), `PartitionCheckError` if the staged rows differ from
    the file or are not sound, `LeaseHeldError`, `LeaseLostError`, and `TableError` if the engine fails. After an error
    the table is as it was before; only if the answer to the swap was lost may it have the new rows.

    `index` is called with the staged part after the check and before the swap.
    """
    timer = _StageTimer(stage)
    db = db.for_long_statements()
    settings = db.settings
    require_loadable(
        merged,
        settings.dataset,
        max_bad_fraction=settings.max_bad_fraction,
        extra_columns=settings.extra_column_types,
    )
    create_table(db)
    with lease(db, f"partition {merged.shard}", say=log) as held:
        drop_stale_staging(db)
        if merged.rows == 0:
            # REPLACE PARTITION refuses an empty source (36). A shard without rows has no partition.
            held.require()
            db.command(f"ALTER TABLE {db.table} DROP PARTITION {merged.shard}")
            return LoadedPartition(merged.shard, 0, 0, 0, timer.seconds)
        transfer = choose_transfer(db, merged)
        if log is not None:
            log(f"shard {merged.shard}, {transfer}")
        try:
            loaded = _stage_and_swap(held, merged, transfer, timer, inserted, index)
        except TableError as error:
            # A load that took the lease has dropped our staging table; the engine's own error would not say so.
            held.require()
            if type(error) is TableError:
                # The engine's own error does not tell whether the file is damaged, so that it must be made again.
                require_whole(merged)
            raise
    release_memory(db)
    return loaded


def _stage_and_swap(
    held: Lease,
    merged: MergedShard,
    transfer: Transfer,
    timer: _StageTimer,
    inserted: Rows | None,
    index: Index | None,
) -> LoadedPartition:
    db = held.db
    with staging_table(held, merged.shard, merged.rows) as staging, ThreadPoolExecutor(max_workers=1) as beside:
        with timer("insert"):
            insert_file(db, staging.quoted, merged, transfer, inserted)
            release_memory(db)
        # The engine merges on one core, so the file is read on another at the same time.
        in_file = beside.submit(file_fingerprint, db.settings, merged)
        with timer("merge parts"):
            _make_one_part(staging)
        with timer("check"):
            checked = _one_part(staging)
            sums = vector_sums(db.settings, merged)
            figures = check_equal_to_file(db, staging.quoted, merged, in_file.result(), sums)
        if index is not None:
            with timer("index"):
                index(staging)
                checked = _one_part(staging)
        with timer("replace"):
            swap_in(held, staging, (checked,))
    return LoadedPartition(
        shard=merged.shard,
        rows=figures.rows,
        bytes_on_disk=checked.bytes_on_disk,
        fingerprint=figures.fingerprint,
        seconds=timer.seconds,
        transfer=str(transfer),
        vector_sums=figures.vector_sums,
    )


def _make_one_part(staging: Staging) -> None:
    """Makes one part of the partition: an index has one graph for each part, and a later merge would throw it away.

    If there is only one part already, it stays: FINAL would write it again. If the connection is cut, the merge
    continues on the server, and this waits for it.
    """
    db, merge = staging.db, f"OPTIMIZE TABLE {staging.quoted} PARTITION {staging.shard} FINAL"
    if len(staging.parts()) == 1:
        return
    try:
        db.command(merge, settings=MERGE_SETTINGS)
    except ServerUnreachableError:
        _wait_for_merges(db, staging.name)
        db.command(merge, settings=MERGE_SETTINGS)
    release_memory(db)


def _one_part(staging: Staging) -> Part:
    """The staging table's only part. Raises `TableError` if there are several, or none."""
    found = staging.parts()
    if len(found) != 1:
        raise TableError(staging.subject, found=f"{len(found)} parts staged", expected="one part")
    return found[0]


def _wait_for_merges(db: Database, table: str) -> None:
    """Waits until no merge of the table runs, at most as long as a load's statement may take. Raises `TableError`."""
    deadline = time.monotonic() + db.seconds
    while db.rows(
        "SELECT 1 FROM system.merges WHERE database = {database:String} AND table = {table:String}",
        parameters={"database": db.database, "table": table},
    ):
        if time.monotonic() >= deadline:
            raise TableError(db.subject, found=f"a merge of {table} after {db.seconds:g} s", expected="its end")
        time.sleep(POLL_SECONDS)


class _StageTimer:
    """Measures the time of each stage and reports stages."""

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
