"""One run of `load_shards` for one shard: its job, its execution in this process, and its outcome."""

from __future__ import annotations

import time

import dagster as dg

from laion_assets.assets.location import ProgressOf
from laion_assets.definitions import build_definitions
from laion_assets.health.history import recorded_numbers
from laion_assets.health.keys import LOAD_JOB, job_name
from laion_assets.health.recorded_rows import AGAIN_TAG, ROWS, last_materialization
from laion_assets.health.runs import failure_reason
from laion_assets.settings import Settings
from laion_assets.terminal.outcome import Outcome
from laion_assets.terminal.runs import execute_here


def again_tag(again: bool) -> dict[str, str]:
    """The tag of a run of `load --again`; empty for every other run."""
    return {AGAIN_TAG: "true"} if again else {}


def shard_job(settings: Settings, progress: ProgressOf | None) -> dg.JobDefinition:
    """The job `load_shards` with these settings."""
    return build_definitions(settings, progress).resolve_job_def(job_name(settings, LOAD_JOB))


def run_shard(
    settings: Settings,
    job: dg.JobDefinition,
    shard: int,
    steps: list[str],
    instance: dg.DagsterInstance,
    *,
    again: bool = False,
) -> Outcome:
    """Runs these assets of one shard in this process; a failure is in the outcome. `again` says that somebody asked for
    the shard although it is loaded."""
    started = time.perf_counter()
    run = execute_here(job, instance, assets=steps, key=settings.dataset.key_of(shard), tags=again_tag(again))
    return outcome_of(settings, instance, shard, run, time.perf_counter() - started)


def outcome_of(
    settings: Settings, instance: dg.DagsterInstance, shard: int, run: dg.DagsterRun, seconds: float
) -> Outcome:
    """The outcome of a shard whose run has ended."""
    if not run.is_success:
        return Outcome(shard, 0, seconds, failure_reason(instance, run.run_id) or f"the run is {run.status.value}")
    record = last_materialization(instance, settings, shard)
    rows = 0 if record is None else int(recorded_numbers(record)[ROWS])
    return Outcome(shard, rows, seconds)
