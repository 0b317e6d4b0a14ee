"""`laion-assets status --shard N`: one shard's files, partition, checks, runs, and what to do. It changes nothing."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime

import dagster as dg
from dagster import AssetCheckKey, RunsFilter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.errors import EngineHeldError
from laion_assets.health.deleted import left_as_it_is
from laion_assets.health.findings import look_at_table
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import asset_key
from laion_assets.health.runs import failure_reason, is_of_a_shard
from laion_assets.settings import Settings
from laion_assets.shard.places import file_exists
from laion_assets.shard.store import ShardStore
from laion_assets.words import counted, lasting

CHECKS = {
    "raw_shard": ("rows_agree",),
    "merged_shard": ("vectors_are_sound", "rows_are_aligned", "metadata_is_sound"),
    "clickhouse_partition": ("partition_matches_parquet",),
}
RUNS = 10
"""How many runs are shown, the newest first."""


@dataclass(frozen=True)
class ShardRun:
    """One run of the shard: its id, state, when it was created (ISO 8601), its seconds, and why it failed."""

    run_id: str
    state: str
    at: str
    seconds: float | None
    why: str


@dataclass(frozen=True)
class ShardStatus:
    """All that is known about one shard. `checks` is by name: SUCCEEDED, FAILED, …, or empty if it never ran.

    `partition` says what the table has, `files` what the store has, `advice` what to do next. `sound` is false if
    the shard failed, or its partition is not what was loaded.
    """

    history: ShardHistory
    partition: str
    files: list[str]
    checks: dict[str, str]
    runs: list[ShardRun]
    advice: str
    sound: bool = True

    def as_json(self) -> dict[str, object]:
        """The status as a JSON object."""
        return asdict(self)


def read_shard(settings: Settings, instance: dg.DagsterInstance, shard: int) -> ShardStatus:
    """Asks Dagster, the store and the table, without waiting for any of them. Raises `TableError`, `StoreError`."""
    (history,) = read_histories(instance, settings, [settings.dataset.key_of(shard)])
    table = look_at_table(settings, wait_seconds=0)
    if isinstance(table, EngineHeldError):
        found = []
        partition = f"the table was not read: {table.found}"
    else:
        found = [state for state in table if state.shard == shard]
        partition = "; ".join(
            f"{counted(state.rows, 'row')} in {counted(state.parts, 'part')}, {state.bytes_on_disk / 1e6:,.1f} MB, "
            f"{'with' if state.index_bytes else 'without'} a vector index"
            for state in found
        )
    rows = None if isinstance(table, EngineHeldError) else sum(state.rows for state in found)
    wrong = _wrong(history, rows)
    return ShardStatus(
        history,
        partition or "no partition",
        _files(settings, shard),
        _checks(settings, instance, shard),
        _runs(settings, instance, shard),
        _advice(history, wrong, left_as_it_is(history, rows)),
        sound=history.state != "failed" and not wrong,
    )


def _files(settings: Settings, shard: int) -> list[str]:
    store = ShardStore.of(settings)
    locations = [*store.raw_files(shard).paths().values(), store.merged_path(shard), store.quarantine_path(shard)]
    return [f"{path} ({path.stat().st_size / 1e6:,.1f} MB)" for path in locations if file_exists(path)]


def _checks(settings: Settings, instance: dg.DagsterInstance, shard: int) -> dict[str, str]:
    keys = [AssetCheckKey(asset_key(settings, asset), name) for asset, names in CHECKS.items() for name in names]
    infos = instance.event_log_storage.get_asset_check_partition_info(
        keys, partition_keys=[settings.dataset.key_of(shard)]
    )
    last = {info.check_key.name: info.latest_execution_status.value for info in infos}
    return {key.name: last.get(key.name, "") for key in keys}


def _runs(settings: Settings, instance: dg.DagsterInstance, shard: int) -> list[ShardRun]:
    records = instance.get_run_records(RunsFilter(tags={PARTITION_TAG: settings.dataset.key_of(shard)}), limit=5 * RUNS)
    ours = [record for record in records if is_of_a_shard(record.dagster_run, settings)][:RUNS]
    return [
        ShardRun(
            run_id=record.dagster_run.run_id,
            state=record.dagster_run.status.value,
            at=record.create_timestamp.isoformat(timespec="seconds"),
            seconds=record.end_time - record.start_time if record.end_time and record.start_time else None,
            why=""
            if record.dagster_run.is_success or not record.dagster_run.is_finished
            else failure_reason(instance, record.dagster_run.run_id),
        )
        for record in ours
    ]


def _wrong(history: ShardHistory, rows_in_table: int | None) -> str:
    """What is wrong with the partition of a loaded shard; empty if nothing is known to be."""
    if history.progress != "loaded" or history.active:
        return ""
    if rows_in_table not in (None, history.rows):
        return f"the table has {rows_in_table:,} rows of it, Dagster recorded {history.rows:,}"
    return "its last check found other rows than those of the merged file" if history.audit_failed else ""


def _advice(history: ShardHistory, wrong: str, left: str) -> str:
    load = f"laion-assets load {history.key}"
    if history.active:
        return f"wait for run {history.run_id}" if history.run_id else "wait: a backfill will make a run of it"
    if left:
        return left
    if history.last_run == "failed":
        return _after_failure(history)
    if wrong:
        return f"`{load}` loads it again: {wrong}"
    if history.stale:
        return "`laion-assets bring-up-to-date` makes again what is stale"
    return "nothing" if history.progress == "loaded" else f"`{load}` runs what is missing"


def _after_failure(history: ShardHistory) -> str:
    if history.accepted:
        again = f"`laion-assets load --again {history.key}` loads all rows of its files, also deleted ones"
        return f"`laion-assets accept {history.key}` takes the failed run off the list; {again}"
    load = f"`laion-assets load {history.key}`"
    return f"correct what the error names, then {load}, or re-execute run {history.run_id} from failure"


def print_shard(status: ShardStatus, console: Console) -> None:
    """Prints the status as lines and tables."""
    history = status.history
    word = history.progress + (f", last run {history.last_run}" if history.last_run else "")
    console.print(f"shard {history.key}: {word}", style="bold", highlight=False)
    lines = [f"partition: {status.partition}", *(f"file: {file}" for file in status.files)]
    if history.loaded_at is not None:
        when = datetime.fromtimestamp(history.loaded_at).astimezone().isoformat(sep=" ", timespec="minutes")
        lines.append(f"loaded: {when}, {lasting(time.time() - history.loaded_at)} ago, {history.rows:,} rows")
    lines += [f"{asset}: {seconds:.1f} s" for asset, seconds in history.seconds.items()]
    lines += [f"stale: {asset}: {why}" for asset, why in history.stale.items()]
    lines += [f"check {name}: {outcome.lower() or 'never run'}" for name, outcome in status.checks.items()]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if status.runs:
        table = Table("run", "state", "at", "seconds", "why")
        for run in status.runs:
            seconds = "" if run.seconds is None else f"{run.seconds:.1f}"
            table.add_row(run.run_id[:8], run.state.lower(), run.at, seconds, Text(run.why))
        console.print(table)
    console.print(f"what to do: {status.advice}", markup=False, highlight=False, soft_wrap=True)
