"""The two HNSW indexes: declared as the settings say, and built where they are missing. searching/proof_of_use.py
checks that they are used; recall/ measures how well they find."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.index.cover import PartitionCover, index_cache_bytes, index_cover, index_sizes
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.patches import apply_patches
from laion_assets.index.replaced import declare_indexes, drop_replaced
from laion_assets.index.staged import index_partition
from laion_assets.progress import Log, Progress
from laion_assets.shard.soundness import SQUARED_LENGTH_RANGE, SQUARED_LENGTH_TOLERANCE
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.mutations import STALL_SECONDS, Mutation, unfinished_mutations
from laion_assets.table.schema import partitions, require_table
from laion_assets.words import duration

LOG_SECONDS = 30.0


@dataclass(frozen=True)
class BuildReport:
    """What one call built: shards, vectors, wall seconds, and core-seconds where the engine is in our process.

    `rebuilt` says that the settings asked for other parameters, so that the old indexes were dropped at the end.
    `cover` has what every partition has now. `cache_warning` is set if the indexes do not fit the engine's cache.
    """

    shards: list[int]
    vectors: int
    seconds: float
    core_seconds: float | None
    rebuilt: bool
    cover: list[PartitionCover]
    cache_warning: str = ""

    @property
    def core_seconds_a_million(self) -> float | None:
        """Core-seconds a million vectors; None when nothing was built, or on a server."""
        return self.core_seconds / self.vectors * 1e6 if self.vectors and self.core_seconds is not None else None


def build_indexes(
    db: Database, *, progress: Progress | None = None, log: Log | None = None, stall_seconds: float = STALL_SECONDS
) -> BuildReport:
    """Builds the missing indexes with the settings' parameters, so that every loaded partition has every index.

    Only one build of a table runs at a time. It builds one partition after the other, each beside the table
    (staged.py), and continues where an earlier build was ended. Indexes with other parameters stay until every
    partition has the new ones and a search has used them; then they are dropped. Mutations of other people are waited
    for and never ended. Patch parts of lightweight UPDATEs and DELETEs are applied first.

    Raises `LeaseHeldError` while another process builds. Raises `TableError` when there is no table, when another's
    mutation is stuck, when a partition holds vectors that cannot be indexed (the error names partition and row), or
    when a build fails or is stuck. Partitions that were built before the error keep their indexes.
    """
    require_table(db)
    say = log or say_nothing
    with lease(db, "its indexes", say=say):
        return _build_what_is_lacking(db, progress, say, stall_seconds)


def _build_what_is_lacking(db: Database, progress: Progress | None, say: Log, stall_seconds: float) -> BuildReport:
    _wait_for_mutations(db, say, stall_seconds)
    apply_patches(db, say, stall_seconds)
    declare_indexes(db, say)
    cover = index_cover(db)
    lacking = [state for state in cover if not state.covered]
    started, cores = time.perf_counter(), time.process_time()
    builder = _Builder(db, lacking, progress, say, stall_seconds)
    for state in lacking:
        builder.build(state)
    cover = _updated_cover(db, cover, {state.shard for state in lacking})
    replaced = drop_replaced(db, cover, say)
    return BuildReport(
        shards=[state.shard for state in lacking],
        vectors=sum(state.rows * len(state.missing) for state in lacking),
        seconds=time.perf_counter() - started,
        core_seconds=time.process_time() - cores if db.embedded else None,
        rebuilt=replaced,
        cover=cover,
        cache_warning=index_sizes(cover).cache_warning(index_cache_bytes(db)) or "",
    )


def _updated_cover(db: Database, cover: list[PartitionCover], built: set[int]) -> list[PartitionCover]:
    """The present cover. Only the partitions `built` are read again, 8 ms each; or all, if others came or went."""
    if {state.shard for state in partitions(db)} != {state.shard for state in cover}:
        return index_cover(db)
    now = {state.shard: state for state in index_cover(db, built)} if built else {}
    return [now.get(state.shard, state) for state in cover]


def bad_vectors(db: Database, shard: int, limit: int = 3) -> list[str]:
    """Why a partition cannot be indexed: its first rows with a vector that the table should not have, in words."""
    dataset = db.settings.dataset
    faults = []
    for column in dataset.vector_columns:
        squared = f"dotProduct({column}, {column})"
        low, high = SQUARED_LENGTH_RANGE
        sound = f"{squared} > {low!r} AND {squared} < {high!r}"
        if dataset.normalised:
            sound = f"abs({squared} - 1) < {SQUARED_LENGTH_TOLERANCE}"
        for row_id, length, square in db.rows(
            f"SELECT id, length({column}), {squared} FROM {db.table} WHERE shard = {shard} "
            f"AND (length({column}) != {dataset.dimension} OR NOT ({sound})) ORDER BY id LIMIT {limit}"
        ):
            what = f"of length {square**0.5:.3g}" if math.isfinite(square) else "not finite"
            if length != dataset.dimension:
                what = f"of {length} elements"
            faults.append(f"row {row_id}: {column} is {what}")
    return faults


class _Builder:
    """Builds one partition after the other and reports progress."""

    def __init__(
        self, db: Database, lacking: list[PartitionCover], progress: Progress | None, log: Log, stall_seconds: float
    ) -> None:
        self._db, self._progress, self._log, self._stall = db, progress, log, stall_seconds
        self._partitions, self._rows = len(lacking), sum(state.rows for state in lacking)
        self._partitions_done = self._rows_done = 0
        self._started = self._said = time.monotonic()
        if lacking:
            log(f"{self._partitions} partitions, {self._rows:,} rows to index ({IndexParameters.of(db.settings)})")
        if lacking and progress is not None:
            progress.begin("index", self._rows, "rows")

    def build(self, state: PartitionCover) -> None:
        """Builds what one partition lacks, and swaps the partition with its indexes in."""
        subject = f"{self._db.subject}, partition {state.shard}"
        self._refuse_bad_vectors(state.shard, subject)
        seen = 0

        def rows_read(rows: int) -> None:
            nonlocal seen
            # If a partition has several parts, each counts from zero. Progress that was shown never goes back.
            step = max(0, min(rows, state.rows) - seen)
            seen += step
            self._advance(state.shard, step)

        try:
            index_partition(self._db, state.shard, state.missing, rows_read=rows_read, say=self._log, stall=self._stall)
        except TableError:
            self._refuse_bad_vectors(state.shard, subject)
            raise
        rows_read(state.rows)
        self._partitions_done += 1
        self._log(f"partition {state.shard} indexed: {', '.join(state.missing)}; {self._so_far()}")

    def _advance(self, shard: int, rows: int) -> None:
        self._rows_done += rows
        if rows and self._progress is not None:
            self._progress.advance(rows)
        if time.monotonic() - self._said >= LOG_SECONDS:
            self._log(f"indexing partition {shard}; {self._so_far()}")
            self._said = time.monotonic()

    def _so_far(self) -> str:
        left = self._rows - self._rows_done
        elapsed = time.monotonic() - self._started
        estimate = ""
        if left and self._rows_done:
            estimate = f", about {duration(elapsed / self._rows_done * left)} left"
        return (
            f"{self._partitions_done} of {self._partitions} partitions, {self._rows_done:,} of {self._rows:,} rows "
            f"({self._rows_done / max(self._rows, 1):.0%}){estimate}"
        )

    def _refuse_bad_vectors(self, shard: int, subject: str) -> None:
        """Scans for bad vectors, which takes a second; a build that fails at its last row has taken half an hour."""
        faults = bad_vectors(self._db, shard)
        if faults:
            raise TableError(
                subject,
                found="; ".join(faults),
                expected=f"vectors of {self._db.settings.dataset.dimension} finite elements, as they are loaded",
                advice=f"materialize clickhouse_partition for partition {shard} again",
            )


def _wait_for_mutations(db: Database, log: Log, stall_seconds: float) -> None:
    """Waits for mutations of the table, which are other people's: a part that is swapped in would lack their changes.

    Raises `TableError` for one that fails or does not move.
    """
    for mutation in unfinished_mutations(db):
        _refuse_if_stuck(db, mutation, log)
        mutation.wait(db, db.subject, stall_seconds=stall_seconds)


def _refuse_if_stuck(db: Database, mutation: Mutation, log: Log) -> None:
    state = mutation.state(db)
    if state is None:
        return
    if state.failure:
        raise TableError(
            db.subject,
            found=f"{mutation.id} ({mutation.commands[:200]}), which is not of laion_assets and fails: {state.failure}",
            expected="no failing mutation, since later mutations wait until it ends",
            advice="correct that mutation, or end it with KILL MUTATION; then build again",
        )
    log(f"{mutation.id} ({mutation.commands[:200]}) is not of laion_assets and still runs; indexes are built after it")


def say_nothing(_line: str) -> None:
    """A log for callers that do not need one."""
