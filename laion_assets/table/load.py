"""Loads a merged Parquet file as one partition: staged, made one part, checked, swapped in. It builds no index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from laion_assets.errors import ServerUnreachableError, TableError
from laion_assets.progress import Log
from laion_assets.shard.loadable import require_loadable
from laion_assets.shard.merged import MergedShard
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import file_fingerprint, vector_sums
from laion_assets.table.inserting import Rows
from laion_assets.table.lease import Lease, lease
from laion_assets.table.mutations import POLL_SECONDS
from laion_assets.table.parts import Part
from laion_assets.table.schema import create_table
from laion_assets.table.scratch import drop_stale_staging
from laion_assets.table.staging import Staging, staging_table
from laion_assets.table.swap import swap_in
from laion_assets.table.transfer import Transfer, choose_transfer, insert_file, release_memory
from laion_assets.table.verify import check_equal_to_file

Stage = Callable[[str], None]
"""Called with the name of each stage as it begins."""


Index = Callable[[Staging], None]
"""Builds indexes in a staged part that was checked, so that they come with it; its rows stay as they are."""


@dataclass
class LoadedPartition:
    """A partition of the table, and what its loading took.

    `fingerprint` is the sum of a hash of every row but its vectors, `vector_sums` are sums over the bits of these, by
    column; `seconds` is by stage; `transfer` says how the file
    reached the engine, and why so.
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

    One load of a shard runs at a time: a second waits for the lease, or says who holds it. Done again after a failure,
    it begins with an empty staging table. Raises `ShardFileError` for a file that the checks of merged_shard refuse (a
    check that failed in an earlier run is not passed by), `PartitionCheckError` when what was staged is not what the
    file holds, or not sound, `LeaseHeldError`, `LeaseLostError`, and `TableError` when the engine fails; the table is
    then as it was before, or, where only the answer to the swap was lost, has the new rows.

    `index` is called with the staged part once it was checked, and before it is swapped in.
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
            # REPLACE PARTITION refuses an empty source (36): a shard without rows is a partition that is not there.
            held.require()
            db.command(f"ALTER TABLE {db.table} DROP PARTITION {merged.shard}")
            return LoadedPartition(merged.shard, 0, 0, 0, timer.seconds)
        transfer = choose_transfer(db, merged)
        if log is not None:
            log(f"shard {merged.shard}, {transfer}")
        try:
            loaded = _stage_and_swap(held, merged, transfer, timer, inserted, index)
        except TableError:
            # A load that took over has dropped our staging table, which the engine reports in words of its own.
            held.require()
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
        # The engine merges on one core.
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
    """One part a partition: the index is one graph a part, and a merge later would throw it away.

    What was inserted as one part stays as it is: FINAL would write it again. A connection that is cut meanwhile leaves
    the merge running: it is waited for.
    """
    db, merge = staging.db, f"OPTIMIZE TABLE {staging.quoted} PARTITION {staging.shard} FINAL"
    if len(staging.parts()) == 1:
        return
    try:
        db.command(merge, settings={"alter_sync": 2})
    except ServerUnreachableError:
        _wait_for_merges(db, staging.name)
        db.command(merge, settings={"alter_sync": 2})
    release_memory(db)


def _one_part(staging: Staging) -> Part:
    """The staging table's only part. Raises `TableError` when there are more or none."""
    found = staging.parts()
    if len(found) != 1:
        raise TableError(staging.subject, found=f"{len(found)} parts staged", expected="one part")
    return found[0]


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


class _StageTimer:
    """Times the stages and reports them."""

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
