"""The runs of this code location: the last run of each shard, the active ones, and why a run failed.

An instance may hold other code locations' runs, with partitions of the same names. Such runs are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.health.keys import (
    LOAD_JOB,
    chain_keys,
    job_name,
)
from laion_assets.redact import redact_text
from laion_assets.settings import Settings

if TYPE_CHECKING:
    pass

ACTIVE: dict[DagsterRunStatus, Literal["queued", "running"]] = {
    DagsterRunStatus.QUEUED: "queued",
    DagsterRunStatus.NOT_STARTED: "queued",
    DagsterRunStatus.STARTING: "running",
    DagsterRunStatus.STARTED: "running",
    DagsterRunStatus.CANCELING: "running",
}

ENDED: dict[DagsterRunStatus, Literal["succeeded", "failed", "canceled"]] = {
    DagsterRunStatus.SUCCESS: "succeeded",
    DagsterRunStatus.FAILURE: "failed",
    DagsterRunStatus.CANCELED: "canceled",
}

RECENT_RUNS = 200
"""Failed and canceled runs that are read besides those that events name. They find a run that was planned before a
shard's last materialization and failed after it."""

COUNTED_RUNS = 20
"""Number of a failed shard's runs among which its failures are counted; LAION_RETRY_LIMIT is far lower."""

IDS_AT_ONCE = 500

SWEEP_RUN = "part_of_run"
"""Metadata key in a shard's result of a check of all shards: the run whose own result names all failed shards."""

FAILED_SHARDS, UNREAD_SHARDS = "failed_shards", "not_looked_at_shards"
"""Metadata keys in the result of a check of all shards: those that failed, and those that could not be looked at, as
ranges."""


@dataclass(frozen=True)
class LastRun:
    """The state of a shard's last run. `failures` counts the failed runs since the last successful one. `began` says
    whether the run may have changed anything: a canceled run that started no step did not. `asked_at` is when it
    was created (Unix time)."""

    run_id: str
    state: Literal["queued", "running", "succeeded", "failed", "canceled"]
    failures: int = 0
    error: str = ""
    began: bool = True
    asked_at: float | None = None

    @property
    def active(self) -> bool:
        """Whether the run has not ended."""
        return self.state in ("queued", "running")


def last_runs(
    instance: DagsterInstance,
    settings: Settings,
    recorded_by: Mapping[str, Mapping[str, float]],
    only: Container[str] | None = None,
    *,
    with_errors: bool = True,
) -> dict[str, LastRun]:
    """The last run of each shard that had one, by partition key; of these shards, or of all.

    `recorded_by` names, by shard, the runs of its last materializations with their times. Dagster's events name further
    runs, which were to materialize a shard later but did not. So a shard costs the same number of queries after two
    runs and after a hundred.
    """
    candidates: dict[str, dict[str, float]] = defaultdict(dict)
    for shard, runs in recorded_by.items():
        candidates[shard].update(runs)
    for key in chain_keys(settings).values():
        attempts = (
            instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations
        )
        for shard, (run_id, _) in attempts(key).items():
            if only is None or shard in only:
                candidates[shard].setdefault(run_id, 0.0)
    records = {record.dagster_run.run_id: record for record in _recent_and_active(instance, settings)}
    for record in records.values():
        if only is not None and record.dagster_run.tags[PARTITION_TAG] not in only:
            continue
        candidates[record.dagster_run.tags[PARTITION_TAG]].setdefault(record.dagster_run.run_id, 0.0)
    wanted = {run_id for runs in candidates.values() for run_id in runs} - records.keys()
    records.update({record.dagster_run.run_id: record for record in _by_id(instance, sorted(wanted))})
    found = {shard: _last(runs, records) for shard, runs in candidates.items()}
    last = {shard: run for shard, run in found.items() if run is not None}
    for shard, run in last.items():
        if run.state == "canceled":
            run = replace(run, began=_began(instance, records[run.run_id]))  # noqa: PLW2901
        last[shard] = replace(run, asked_at=records[run.run_id].create_timestamp.timestamp())
    return _with_failures(instance, settings, last, with_errors)


def _last(runs: Mapping[str, float], records: Mapping[str, dg.RunRecord]) -> LastRun | None:
    """The active run, else the run that ended last; None for events that were recorded without a run."""
    known = [records[run_id] for run_id in runs if run_id in records]
    active = [record.dagster_run for record in known if record.dagster_run.status in ACTIVE]
    if active:
        run = max(active, key=lambda one: (one.status == DagsterRunStatus.STARTED, one.run_id))
        return LastRun(run.run_id, ACTIVE[run.status])
    ended = [record for record in known if record.dagster_run.status in ENDED]
    if not ended:
        return None
    last = max(ended, key=lambda one: (_end(one), one.storage_id))
    if max(runs.values(), default=0.0) > _end(last):
        return None  # a materialization was recorded later, without a run
    return LastRun(last.dagster_run.run_id, ENDED[last.dagster_run.status])


def _began(instance: DagsterInstance, record: dg.RunRecord) -> bool:
    """Whether a run started a step. One that was canceled in the queue, or while it waited for its pool, did not."""
    if record.start_time is None:
        return False
    return any(step.start_time is not None for step in instance.get_run_step_stats(record.dagster_run.run_id))


def _end(record: dg.RunRecord) -> float:
    """When a run ended. If the time is missing, the time when its record last changed, which SQLite has in seconds."""
    return record.end_time or record.update_timestamp.timestamp() + 1


def _recent_and_active(instance: DagsterInstance, settings: Settings) -> list[dg.RunRecord]:
    """Active runs of shards, and the last runs that failed or were canceled."""
    ended = RunsFilter(statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
    records = [
        *instance.get_run_records(RunsFilter(statuses=list(ACTIVE))),
        *instance.get_run_records(ended, limit=RECENT_RUNS),
    ]
    return [record for record in records if is_of_a_shard(record.dagster_run, settings)]


def _by_id(instance: DagsterInstance, run_ids: list[str]) -> Iterable[dg.RunRecord]:
    for start in range(0, len(run_ids), IDS_AT_ONCE):
        yield from instance.get_run_records(RunsFilter(run_ids=run_ids[start : start + IDS_AT_ONCE]))


def _with_failures(
    instance: DagsterInstance, settings: Settings, last: dict[str, LastRun], with_errors: bool
) -> dict[str, LastRun]:
    """Adds the number of each shard's failures since its last success, and the reason of the last one."""
    failing = [shard for shard, run in last.items() if run.state != "succeeded"]
    counts: dict[str, int] = dict.fromkeys(failing, 0)
    settled: set[str] = set()
    for start in range(0, len(failing), IDS_AT_ONCE):
        shards = failing[start : start + IDS_AT_ONCE]
        ended = RunsFilter(statuses=[DagsterRunStatus.FAILURE, DagsterRunStatus.SUCCESS], tags={PARTITION_TAG: shards})
        for run in instance.get_runs(ended, limit=COUNTED_RUNS * len(shards)):
            shard = run.tags[PARTITION_TAG]
            if shard in settled or not is_of_a_shard(run, settings):
                continue
            if run.status == DagsterRunStatus.SUCCESS:
                settled.add(shard)
            else:
                counts[shard] += 1
    for shard in failing:
        one = last[shard]
        error = failure_reason(instance, one.run_id) if with_errors and not one.active else ""
        last[shard] = replace(one, failures=counts[shard], error=error)
    return last


def is_of_a_shard(run: dg.DagsterRun, settings: Settings) -> bool:
    """Whether a run makes assets of the chain, in this code location, for one shard."""
    if PARTITION_TAG not in run.tags:
        return False
    if run.asset_selection is None:
        return run.job_name == job_name(settings, LOAD_JOB)
    return any(key in run.asset_selection for key in chain_keys(settings).values())


def failure_reason(instance: DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line without secrets: the messages of the failed step and the failed checks, else what
    ended the run (it was canceled, or its process ended)."""
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
        if check is not None and not check.passed and SWEEP_RUN not in check.metadata:
            reasons.append(f"check {check.check_name}: {check.description or 'failed'}")
    for ending in () if reasons else (DagsterEventType.RUN_FAILURE, DagsterEventType.RUN_CANCELED):
        events = (entry.dagster_event for entry in instance.all_logs(run_id, of_type=ending))
        reasons += [event.message for event in events if event is not None and event.message]
    said = redact_text("; ".join(dict.fromkeys(reasons)))
    return " ".join(said.split()) or "the run ended before it could say why"
