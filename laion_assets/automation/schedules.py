"""Schedules: load the next missing shards, retry failed shards, observe remote files, make the report."""

from __future__ import annotations

import dagster as dg

from laion_assets.automation.queue import BULK
from laion_assets.dagster_internals.names import PARTITION_TAG, PRIORITY_TAG
from laion_assets.health.audits import last_audits
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import AUDIT_JOB, LOAD_JOB, OBSERVE_JOB, REPORT_JOB, UPDATE_JOB, job_name
from laion_assets.settings import Settings
from laion_assets.words import counted

SCHEDULED = {PRIORITY_TAG: str(BULK)}
"""Runs that a person starts come before loads that a schedule asked for."""


def next_missing(histories: list[ShardHistory], count: int) -> tuple[list[str], str]:
    """The next `count` shards that have no run and no partition, in order, and a reason if there are fewer."""
    open_runs = sum(history.active for history in histories)
    if open_runs >= count:
        return [], f"{open_runs} shards are queued or running, as many as are asked for at once"
    waiting = [history.key for history in histories if history.state in ("missing", "fetched", "merged")]
    failed = sum(history.state == "failed" for history in histories)
    if not waiting:
        return [], f"no shard is missing; {failed} failed" if failed else "all shards are loaded"
    return waiting[: count - open_runs], ""


def failed_to_retry(histories: list[ShardHistory], limit: int) -> tuple[list[ShardHistory], str]:
    """Failed shards with at most `limit` failed runs, and a reason if there are none."""
    failed = [history for history in histories if history.state == "failed" and not history.accepted]
    again = [history for history in failed if history.failures <= limit]
    if again:
        return again, ""
    return (
        [],
        f"{counted(len(failed), 'shard')} failed more than {limit} times: correct the cause first"
        if failed
        else "no shard failed",
    )


def longest_unaudited(histories: list[ShardHistory], audits: dict[str, tuple[float, bool]], count: int) -> list[str]:
    """The loaded shards that were audited longest ago; never audited ones first, without queued or running ones."""
    loaded = [history for history in histories if history.progress == "loaded" and not history.active]
    loaded.sort(key=lambda history: (audits.get(history.key, (0, True))[0], history.shard))
    return [history.key for history in loaded[:count]]


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The schedules. All are stopped until a user starts them in the UI."""

    @dg.schedule(
        name=job_name(settings, "load_next_shards"),
        job_name=job_name(settings, LOAD_JOB),
        cron_schedule=settings.load_cron,
        description=f"Requests runs of the next missing shards, {settings.load_shards} at a time, in order. It leaves "
        "out shards that are queued, running, failed, or waiting in a backfill. A missing shard whose run was canceled "
        "is requested again.",
    )
    def load_next_shards(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        histories = read_histories(context.instance, settings, with_errors=False)
        shards, reason = next_missing(histories, settings.load_shards)
        if not shards:
            return dg.SkipReason(reason)
        tick = context.scheduled_execution_time.isoformat()
        return [dg.RunRequest(run_key=f"{tick}/{key}", partition_key=key, tags=SCHEDULED) for key in shards]

    @dg.schedule(
        name=job_name(settings, "retry_failed_shards"),
        job_name=job_name(settings, LOAD_JOB),
        cron_schedule=settings.retry_cron,
        description=f"Requests runs of failed shards again, until {settings.retry_limit} retries have failed too.",
    )
    def retry_failed_shards(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        histories = read_histories(context.instance, settings, with_errors=False)
        failed, reason = failed_to_retry(histories, settings.retry_limit)
        if not failed:
            return dg.SkipReason(reason)
        return [
            dg.RunRequest(run_key=f"retry/{history.run_id}", partition_key=history.key, tags=SCHEDULED)
            for history in failed
        ]

    observe = dg.ScheduleDefinition(
        name=job_name(settings, "observe_remote_shards"),
        job_name=job_name(settings, OBSERVE_JOB),
        cron_schedule=settings.observe_cron,
        tags=SCHEDULED,
        description="Checks the remote files of loaded shards. If a file has changed, its partition is shown as stale.",
    )
    report = dg.ScheduleDefinition(
        name=job_name(settings, "report_load"),
        job_name=job_name(settings, REPORT_JOB),
        cron_schedule=settings.report_cron,
        description="Writes load_report and evaluates its health checks.",
    )

    @dg.schedule(
        name=job_name(settings, "audit_partitions"),
        job_name=job_name(settings, AUDIT_JOB),
        cron_schedule=settings.audit_cron,
        description=f"Compares {settings.audit_shards} loaded partitions with their merged files again, first those "
        "that were compared longest ago.",
    )
    def audit_partitions(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        histories = read_histories(context.instance, settings, with_errors=False)
        shards = longest_unaudited(histories, last_audits(context.instance, settings), settings.audit_shards)
        tick = context.scheduled_execution_time.isoformat()
        requests = [
            # To Dagster a job of checks has no partitions. The check takes its partition from the tag.
            dg.RunRequest(run_key=f"audit/{tick}/{key}", tags={**SCHEDULED, PARTITION_TAG: key})
            for key in shards
        ]
        return requests or dg.SkipReason("no partition is loaded")

    update = dg.ScheduleDefinition(
        name=job_name(settings, "update_what_is_stale"),
        job_name=job_name(settings, UPDATE_JOB),
        cron_schedule=settings.update_cron,
        tags=SCHEDULED,
        description="Launches bring_up_to_date, which makes everything that is stale or missing, in order, and "
        "nothing else.",
    )
    return [load_next_shards, retry_failed_shards, observe, report, audit_partitions, update]
