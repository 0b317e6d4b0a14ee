"""`laion-assets accept`: records in Dagster what the table has of shards, after a takedown or a loss of the records.

It changes no row. A partition that equals its merged file is recorded as loaded. Any other one is recorded as accepted:
audits compare it with what it has now, and only `laion-assets load --again` loads it again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
from rich.console import Console

from laion_assets.dagster_internals.names import DATA_VERSION_TAG
from laion_assets.errors import PartitionCheckError, ShardFileError
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import asset_key
from laion_assets.health.merges import file_version, recorded_merge
from laion_assets.health.recorded_rows import (
    ACCEPTED,
    RecordedRows,
    last_materialization,
    recorded_rows,
    rows_metadata,
    rows_version,
)
from laion_assets.settings import Settings
from laion_assets.shard.merged import MergedShard, read_merged
from laion_assets.shard.places import file_exists
from laion_assets.shard.store import ShardStore
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import file_fingerprint
from laion_assets.table.hidden_rows import require_every_row
from laion_assets.table.lease import lease
from laion_assets.table.nodes import connect_to_partition
from laion_assets.table.schema import create_table
from laion_assets.table.verify import PartitionFigures, partition_figures, vectors_agree
from laion_assets.words import counted


@dataclass(frozen=True)
class Accepted:
    """What was recorded of one shard: its rows in the table, and what they are; or why nothing was recorded."""

    shard: int
    rows: int
    how: str = ""
    error: str = ""


def accept(settings: Settings, shards: list[int], instance: dg.DagsterInstance) -> Iterator[Accepted]:
    """Records each shard's partition as the table has it, and yields what was recorded.

    A shard with a running run is refused: it may be past the step that looks for accepted rows. A queued run fails at
    its first step. Refused, too, are shards whose rows are not sound, those without any row, which may be lost, and
    those to which the dataset gives another number or name now. Raises `TableError`, `StoreError`.
    """
    for shard in shards:
        why = _why_not(settings, shard, instance)
        if why:
            yield Accepted(shard, 0, error=why)
            continue
        with connect_to_partition(settings, shard) as db:
            create_table(db)
            require_every_row(db, "rows that are to be recorded")
            # No load replaces the partition between the look at its rows and their record.
            with lease(db, f"partition {shard}"):
                accepted = _accept(db, shard, instance)
        yield accepted


def _history(settings: Settings, shard: int, instance: dg.DagsterInstance) -> ShardHistory:
    (history,) = read_histories(instance, settings, [settings.dataset.key_of(shard)], with_errors=False)
    return history


def _why_not(settings: Settings, shard: int, instance: dg.DagsterInstance) -> str:
    """Why nothing may be recorded of a shard by its history; empty if it may."""
    history = _history(settings, shard, instance)
    if history.last_run == "running":
        return f"run {history.run_id} of it is running: wait for its end, or terminate it"
    if history.moved:
        return f"{history.stale['raw_shard']}: the partition has the rows of another name. `laion-assets load` loads it"
    return ""


def _accept(db: Database, shard: int, instance: dg.DagsterInstance) -> Accepted:
    before = recorded_rows(instance, db.settings, shard)
    figures = partition_figures(db, db.table, f"shard = {shard}")
    if (figures.rows, before.rows, before.accepted) == (0, 0, False):
        return Accepted(shard, 0, "recorded already")  # a shard whose files have no row
    try:
        _require_sound(db, shard, figures)
    except PartitionCheckError as error:
        return Accepted(shard, figures.rows, error=str(error))
    merged, version = _equal_file(db, shard, figures, instance, before)
    same = (figures.rows, figures.fingerprint) == (before.rows, before.fingerprint)
    same = same and before.sums in (None, figures.vector_sums)
    if merged is not None:
        how, settled = "equal to its merged file: recorded as loaded", same and not before.accepted
    elif same:
        how, settled = "as recorded; its failed run no longer counts", True
    else:
        how, settled = f"{_difference(figures.rows, before)}: accepted", False
    if settled and not _history(db.settings, shard, instance).ended_early:
        return Accepted(shard, figures.rows, "recorded already")
    # A run that began meanwhile has perhaps passed the look for accepted rows, and waits for the lease.
    why = _why_not(db.settings, shard, instance)
    if why:
        return Accepted(shard, figures.rows, error=why)
    accepted = merged is None and (not same or before.accepted)
    _record(db.settings, shard, instance, figures, version, how if accepted else "")
    return Accepted(shard, figures.rows, how)


def _require_sound(db: Database, shard: int, figures: PartitionFigures) -> None:
    faults = []
    if not figures.rows:
        faults.append("no row in the table, as after a loss of its part")
    if figures.wrong_length or figures.unsound:
        faults.append(f"{max(figures.wrong_length, figures.unsound):,} rows or more whose vectors are not sound")
    if figures.doubled:
        faults.append(f"{figures.doubled:,} rows whose id another row has")
    if faults:
        key = db.settings.dataset.key_of(shard)
        raise PartitionCheckError(
            f"shard {key}, its partition",
            found="; ".join(faults),
            expected="sound rows",
            advice=f"nothing was recorded: `laion-assets load --again {key}` loads the rows of its files; to leave the "
            "shard out, remove it from the dataset's shards",
        )


def _equal_file(
    db: Database, shard: int, figures: PartitionFigures, instance: dg.DagsterInstance, before: RecordedRows
) -> tuple[MergedShard | None, str]:
    """The merged file that the partition equals, if there is one, and the version of the file that its rows are of. A
    damaged file, or one of another description, is none."""
    store = ShardStore.of(db.settings)
    path = store.merged_path(shard)
    if not file_exists(path):
        return None, before.merged
    try:
        merged = read_merged(path, dataset=store.dataset, shard=shard)
        version = file_version(merged)
        if recorded_merge(instance, db.settings, shard) in ("", version):
            equal = (figures.rows, figures.fingerprint) == file_fingerprint(db.settings, merged)
            if equal and vectors_agree(db, merged, figures) is not None:
                return merged, version
    except ShardFileError:
        pass
    return None, before.merged


def _difference(rows: int, before: RecordedRows) -> str:
    if before.rows < 0:
        return f"{counted(rows, 'row')} of which Dagster had no record"
    if rows == before.rows:
        return f"{counted(rows, 'row')}, of which some differ from those that were recorded"
    return f"{counted(abs(rows - before.rows), 'row')} {'fewer' if rows < before.rows else 'more'} than were recorded"


def _record(
    settings: Settings, shard: int, instance: dg.DagsterInstance, figures: PartitionFigures, version: str, why: str
) -> None:
    """Reports a materialization of the partition, with all of the last one that is still true."""
    record = last_materialization(instance, settings, shard)
    last = None if record is None else record.asset_materialization
    metadata = {} if last is None else {name: value for name, value in last.metadata.items() if name != ACCEPTED}
    metadata |= rows_metadata(figures.rows, figures.fingerprint, figures.vector_sums, version)
    # By which code and from which merged file the rows are: without these tags Dagster shows the partition as stale.
    tags = {} if last is None else dict(last.tags or {})
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key(settings, "clickhouse_partition"),
            description=why or "recorded as the table has it: equal to its merged file",
            metadata=metadata | ({ACCEPTED: why} if why else {}),
            partition=settings.dataset.key_of(shard),
            tags=tags | {DATA_VERSION_TAG: rows_version(figures.rows, figures.fingerprint, version)},
        )
    )


def print_accepted(settings: Settings, one: Accepted, console: Console) -> None:
    """A line for a shard, as soon as it was recorded: a shard of a million rows takes seconds to read."""
    said = f"{counted(one.rows, 'row')} in the table; {one.how}"
    line = f"shard {settings.dataset.key_of(one.shard)}: {one.error or said}"
    console.print(line, style="red" if one.error else "", markup=False, highlight=False, soft_wrap=True)
