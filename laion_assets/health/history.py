"""What Dagster recorded of each shard: state, rows, seconds a stage, run, last error. It starts nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import dagster as dg
from dagster import AssetKey, DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from laion_assets.redact import redact_text

if TYPE_CHECKING:
    from dagster._core.execution.backfill import PartitionBackfill

CHAIN = ("raw_shard", "merged_shard", "clickhouse_partition")
"""The assets that are partitioned by shard, in order."""

LOAD_JOB = "load_shards"
"""The job of that chain."""

COVERED_SHARDS = "covered_shards"
"""Key of `vector_index`'s metadata: the shards whose partitions it covers, as a JSON list of numbers."""

LOADS_SEEN = "loads_seen"
"""Key of `vector_index`'s metadata: the last event of a loaded partition before its build began, as Dagster counts."""

ShardState = Literal["loaded", "running", "queued", "failed", "merged", "fetched", "missing"]

PARTITION_TAG = "dagster/partition"
ACTIVE: dict[DagsterRunStatus, ShardState] = {
    DagsterRunStatus.QUEUED: "queued",
    DagsterRunStatus.NOT_STARTED: "queued",
    DagsterRunStatus.STARTING: "running",
    DagsterRunStatus.STARTED: "running",
    DagsterRunStatus.CANCELING: "running",
}


@dataclass
class ShardHistory:
    """One shard. `seconds` is by asset of the chain, `core_seconds` is of all of it, `raw_bytes` of its source.

    `peak_bytes` is the most resident memory of a step; `loaded_at` is a Unix time; `failures` counts the runs that
    failed or were canceled since the last one that succeeded.
    """

    key: str
    state: ShardState = "missing"
    rows: int = 0
    quarantined: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    core_seconds: float = 0.0
    raw_bytes: int = 0
    peak_bytes: int = 0
    loaded_at: float | None = None
    run_id: str = ""
    failures: int = 0
    error: str = ""

    @property
    def rows_per_second(self) -> float:
        """Over all stages of the chain."""
        total = sum(self.seconds.values())
        return self.rows / total if total else 0.0


def read_histories(instance: DagsterInstance, keys: list[str], *, with_errors: bool = True) -> list[ShardHistory]:
    """The history of every shard in `keys`, in their order: a few queries, whatever the number of shards."""
    histories = {key: ShardHistory(key) for key in keys}
    states: dict[str, ShardState] = {"raw_shard": "fetched", "merged_shard": "merged", "clickhouse_partition": "loaded"}
    for asset in CHAIN:
        for record in _latest_materializations(instance, AssetKey(asset)):
            history = histories.get(record.partition_key or "")
            if history is not None:
                history.state = states[asset]
                _take_materialization(history, asset, record)
    _take_backfills(instance, histories)
    _take_active_runs(instance, histories)
    _take_failed_runs(instance, histories, with_errors)
    return list(histories.values())


def _latest_materializations(instance: DagsterInstance, asset: AssetKey) -> list[dg.EventLogRecord]:
    latest = instance.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
    ids = sorted(latest.values())
    records: list[dg.EventLogRecord] = []
    # SQLite takes at most 999 bound values in its older versions.
    for start in range(0, len(ids), 500):
        wanted = dg.AssetRecordsFilter(asset, storage_ids=ids[start : start + 500])
        records += instance.fetch_materializations(wanted, limit=500).records
    return records


def recorded_numbers(record: dg.EventLogRecord) -> defaultdict[str, float]:
    """The numbers that a materialization recorded, by name; 0 for others."""
    materialization = record.asset_materialization
    metadata = {} if materialization is None else materialization.metadata
    numbers: defaultdict[str, float] = defaultdict(float)
    numbers.update({name: kept.value for name, kept in metadata.items() if isinstance(kept.value, (int, float))})
    return numbers


def _take_materialization(history: ShardHistory, asset: str, record: dg.EventLogRecord) -> None:
    numbers = recorded_numbers(record)
    history.seconds[asset] = numbers["seconds"]
    history.core_seconds += numbers["core_seconds"]
    history.peak_bytes = max(history.peak_bytes, int(numbers["peak_memory_bytes"]))
    history.run_id = record.run_id
    if asset == "raw_shard":
        history.raw_bytes = int(numbers["bytes"])
    if asset == "clickhouse_partition":
        history.rows = int(numbers["dagster/partition_row_count"])
        history.quarantined = int(numbers["quarantined"])
        history.loaded_at = record.timestamp


def _take_backfills(instance: DagsterInstance, histories: dict[str, ShardHistory]) -> None:
    """Shards of backfills under way that have no run yet are queued: the backfill makes runs a few at a time."""
    # Imported here: it was a fifth of what importing the code location takes over Dagster, in each shard's run.
    from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])):
        for key in _without_a_run(backfill) & histories.keys():
            histories[key].state, histories[key].run_id = "queued", ""


def _without_a_run(backfill: PartitionBackfill) -> set[str]:
    """Partitions of the chain that a backfill, of assets or of the job `load_shards`, has not asked a run for yet."""
    if backfill.asset_backfill_data is None:
        names = list(backfill.partition_names or []) if backfill.job_name == LOAD_JOB else []
        submitted = backfill.last_submitted_partition_name
        return set(names[names.index(submitted) + 1 :] if submitted in names else names)
    data = backfill.asset_backfill_data
    waiting = data.target_subset - data.requested_subset - data.failed_and_downstream_subset
    subsets = waiting.partitions_subsets_by_asset_key
    ours = [subsets[AssetKey(asset)] for asset in CHAIN if AssetKey(asset) in subsets]
    return {key for subset in ours for key in subset.get_partition_keys()}


def _take_active_runs(instance: DagsterInstance, histories: dict[str, ShardHistory]) -> None:
    for run in instance.get_runs(RunsFilter(statuses=list(ACTIVE))):
        history = histories.get(run.tags.get(PARTITION_TAG, ""))
        if history is not None and _is_of_chain(run):
            history.state, history.run_id = ACTIVE[run.status], run.run_id


@dataclass(frozen=True)
class RunUnderWay:
    """A run of something else than shards: its id, state, and the assets that it makes, or its job."""

    run_id: str
    state: ShardState
    what: str


def other_active_runs(instance: DagsterInstance) -> list[RunUnderWay]:
    """Runs under way that are of no shard, such as the index's, which may hold the table for long."""
    found = []
    for run in instance.get_runs(RunsFilter(statuses=list(ACTIVE))):
        if PARTITION_TAG not in run.tags:
            assets = sorted(key.to_user_string() for key in run.asset_selection or ())
            found.append(RunUnderWay(run.run_id, ACTIVE[run.status], ", ".join(assets) or run.job_name))
    return found


def _take_failed_runs(instance: DagsterInstance, histories: dict[str, ShardHistory], with_errors: bool) -> None:
    """Counts the failed runs of shards that are not loaded, or failed when they were loaded again."""
    finished = RunsFilter(statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED, DagsterRunStatus.SUCCESS])
    settled: set[str] = set()
    for record in instance.get_run_records(finished):
        run = record.dagster_run
        history = histories.get(run.tags.get(PARTITION_TAG, ""))
        if history is None or history.key in settled or not _is_of_chain(run):
            continue
        if run.status == DagsterRunStatus.SUCCESS:
            settled.add(history.key)
            continue
        history.failures += 1
        if history.failures == 1 and history.state not in ("running", "queued"):
            history.state, history.run_id = "failed", run.run_id
            history.error = failure_reason(instance, run.run_id) if with_errors else ""


def _is_of_chain(run: dg.DagsterRun) -> bool:
    selected = run.asset_selection
    return selected is None or any(AssetKey(asset) in selected for asset in CHAIN)


def failure_reason(instance: DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line without secrets: the failed step's own words and the failed checks', else what
    ended the run (it was canceled, its process was gone)."""
    reasons: list[str] = []
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        failure = entry.dagster_event.step_failure_data if entry.dagster_event is not None else None
        if failure is None:
            continue
        if failure.user_failure_data is not None and failure.user_failure_data.description:
            reasons.append(failure.user_failure_data.description)
        elif failure.error is not None:
            reasons.append((failure.error.cause or failure.error).message)
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        check = entry.dagster_event.asset_check_evaluation_data if entry.dagster_event is not None else None
        if check is not None and not check.passed:
            reasons.append(f"check {check.check_name}: {check.description or 'failed'}")
    for ending in () if reasons else (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
        events = (entry.dagster_event for entry in instance.all_logs(run_id, of_type=ending))
        reasons += [event.message for event in events if event is not None and event.message]
    said = redact_text("; ".join(dict.fromkeys(reasons)))
    return " ".join(said.split()) or "the run ended before it could say why"


def hours_since_last_load(histories: list[ShardHistory]) -> float | None:
    """Hours since a shard was loaded; None when none ever was."""
    times = [history.loaded_at for history in histories if history.loaded_at is not None]
    return (time.time() - max(times)) / 3600 if times else None
