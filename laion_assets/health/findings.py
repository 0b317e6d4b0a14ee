"""Whether all is well: judgements over shard histories, the table and the disk. Checks and commands show them."""

from __future__ import annotations

import time

from laion_assets.errors import EngineHeldError
from laion_assets.health.deleted import rows_by_shard, rows_were_deleted
from laion_assets.health.disk import disk_space_suffices
from laion_assets.health.facts import LoadFacts
from laion_assets.health.finding import Finding, TableLook, naming
from laion_assets.health.history import ShardHistory, hours_since_last_load
from laion_assets.health.upkeep import (
    cells_follow_loads,
    engine_is_given_back,
    index_follows_loads,
    nothing_is_stale,
    partitions_were_audited,
    recall_is_current,
)
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import live_partitions
from laion_assets.words import counted, lasting


def look_at_table(settings: Settings, *, wait_seconds: float | None = None) -> TableLook:
    """The table's partitions, without rows that were deleted. If another process holds the embedded engine for longer
    than `wait_seconds` (None: the settings' own), returns that process: this is no failure, since a load or a build
    holds the engine while it works.

    Raises `TableError` when the table cannot be read for another reason.
    """
    try:
        with connect(settings, wait_seconds=wait_seconds) as db:
            return live_partitions(db)
    except EngineHeldError as error:
        return error


def judge(
    settings: Settings, histories: list[ShardHistory], table: TableLook, free_bytes: int, facts: LoadFacts
) -> list[Finding]:
    """All findings, in the order in which a person would ask for them."""
    return [
        no_shards_left_failed(histories),
        table_agrees_with_dagster(histories, table),
        ingest_is_moving(histories, facts.asked_for, settings.stalled_hours, facts.planned_at),
        nothing_is_stale(histories),
        index_follows_loads(settings, histories, table, facts),
        cells_follow_loads(settings, histories, facts),
        recall_is_current(facts),
        partitions_were_audited(histories, facts.audit, settings.audit_days, table),
        engine_is_given_back(facts.holder, settings.stalled_hours),
        disk_space_suffices(settings, histories, free_bytes, table),
    ]


def no_shards_left_failed(histories: list[ShardHistory]) -> Finding:
    """No shard's last run has failed. A canceled run is not a failure."""
    failed = [history for history in histories if history.state == "failed"]
    shown = naming([_failure(history) for history in failed])
    seen = f"{counted(len(failed), 'shard')} failed: {shown}" if failed else "no shard is left failed"
    return Finding("no_shards_left_failed", not failed, seen, {"failed": len(failed)})


def _failure(history: ShardHistory) -> str:
    """A failed shard with its error. Our own errors name the shard already."""
    name = f"shard {history.key}"
    return history.error if history.error.startswith((f"{name}:", f"{name},")) else f"{name}: {history.error}"


def table_agrees_with_dagster(histories: list[ShardHistory], table: TableLook) -> Finding:
    """Whether the table and Dagster's records have the same partitions and rows. Shards with a run are left out.

    It fails also after a takedown, until `laion-assets accept` records that rows were deleted on purpose.
    """
    if isinstance(table, EngineHeldError):
        return Finding("table_agrees_with_dagster", None, f"the table was not read: {table.subject}: {table.found}")
    in_table = rows_by_shard(table) or {}
    known = {history.shard for history in histories}
    drift = [f"shard {shard}: in the table, unknown to the dataset" for shard in in_table if shard not in known]
    for history in histories:
        if history.active:
            continue
        recorded = history.rows if history.loaded_at is not None else 0
        found = in_table.get(history.shard, 0)
        deleted = rows_were_deleted(history, found)
        if deleted:
            drift.append(deleted)
        elif recorded != found:
            drift.append(f"shard {history.key}: {found:,} rows in the table, {recorded:,} by Dagster")
    figures = {"partitions": len(in_table), "rows": sum(in_table.values()), "drift": len(drift)}
    agree = f"{counted(len(in_table), 'partition')} {'agrees' if len(in_table) == 1 else 'agree'}"
    return Finding("table_agrees_with_dagster", not drift, naming(drift) or agree, figures)


def ingest_is_moving(
    histories: list[ShardHistory], asked_for: set[str], stalled_hours: float, planned_at: float | None = None
) -> Finding:
    """If shards that were asked for are missing, one was loaded within `stalled_hours`; if none was loaded yet, the
    load was planned, or its first run was created, within this time.

    Shards that were not asked for do not count: a load of 0-9 of 410 is complete with ten. A load that was never begun
    does not count either.
    """
    missing = [history for history in histories if history.progress != "loaded"]
    waiting = [history for history in missing if history.key in asked_for]
    hours = hours_since_last_load(histories)
    loaded = [history for history in histories if history.progress == "loaded"]
    seconds = sum(sum(history.seconds.values()) for history in loaded) / max(len(loaded), 1)
    figures = {"missing": len(missing), "asked_for": len(waiting), "seconds_a_shard": round(seconds, 1)}
    figures |= {} if hours is None else {"hours_since_the_last_load": round(hours, 2)}
    if not missing:
        return Finding("ingest_is_moving", True, "all shards are loaded", figures)
    if not waiting:
        seen = f"{counted(len(missing), 'shard')} of {len(histories)} not loaded, and not asked for"
        return Finding("ingest_is_moving", True, seen, figures)
    seen = f"{counted(len(waiting), 'shard')} asked for and not loaded"
    if hours is None:
        return _first_is_near(waiting, planned_at, stalled_hours, f"{seen}; none was loaded yet", figures)
    seen += f"; the last was loaded {lasting(hours * 3600)} ago"
    return Finding("ingest_is_moving", hours <= stalled_hours, seen, figures)


def _first_is_near(
    waiting: list[ShardHistory], planned_at: float | None, stalled_hours: float, seen: str, figures: dict[str, float]
) -> Finding:
    """Whether a load that has loaded nothing yet is younger than `stalled_hours`. The age of a load without a plan and
    without a run is unknown."""
    times = [planned_at, *(history.asked_at for history in waiting)]
    asked = min((at for at in times if at is not None), default=None)
    if asked is None:
        return Finding("ingest_is_moving", True, seen, figures)
    hours = max(0.0, time.time() - asked) / 3600
    seen += f"; the first was asked for {lasting(hours * 3600)} ago"
    return Finding(
        "ingest_is_moving", hours <= stalled_hours, seen, figures | {"hours_since_asked_for": round(hours, 2)}
    )
