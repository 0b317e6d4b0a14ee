"""Alerts: posts failed runs, and checks that fail or recover, to a webhook, each change once. Dagster finds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance
from pydantic import SecretStr

from laion_assets.automation.overdue import overdue_sensors
from laion_assets.automation.webhook import Alert, WebhookError, alert, post
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.dagster_internals.records import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    PartitionKeyFilter,
    events_of_all_runs,
)
from laion_assets.health.keys import CHAIN, LOAD_JOB, is_ours, job_name, our_keys
from laion_assets.health.runs import FAILED_SHARDS, SWEEP_RUN, UNREAD_SHARDS, failure_reason
from laion_assets.settings import Settings

SECONDS_A_TICK = 30.0
"""Seconds for posts in one tick. Dagster gives a sensor 60 s a tick; the rest is posted at the next tick."""

EVENTS_A_TICK = 200


@dataclass(frozen=True)
class News:
    """Events after a cursor: their alerts by event, in order, and the last event that was read."""

    alerts: list[tuple[int, Alert]]
    newest: int


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """The sensors; none without LAION_ALERT_WEBHOOK."""
    if settings.alert_webhook is None:
        return []
    return [
        _sensor(
            job_name(settings, "alert_on_run_failure"),
            "Posts each failed run to the webhook, once, with its reason.",
            settings,
            failed_runs,
            _newest_failed_run,
        ),
        _sensor(
            job_name(settings, "alert_on_failed_check"),
            "Posts each check that begins to fail or to warn, or that recovers, to the webhook, once. A check that "
            "stays failed is not posted again. Without this sensor a failed check that does not block would not be "
            "posted, since it does not fail its run.",
            settings,
            changed_checks,
            _newest_check,
        ),
        *overdue_sensors(settings),
    ]


def _sensor(
    name: str,
    description: str,
    settings: Settings,
    look: Callable[[Settings, DagsterInstance, int, str | None], News],
    newest: Callable[[DagsterInstance], int],
) -> dg.SensorDefinition:
    """A sensor with a cursor of our own. Dagster's `run_failure_sensor` moves its cursor also when the post failed, so
    alerts are lost while a webhook is down."""

    @dg.sensor(
        name=name,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def posted(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        if context.cursor is None:
            # A new sensor begins with new events: failures before its start are not posted.
            return dg.SensorResult(cursor=str(newest(instance)), skip_reason=dg.SkipReason("begins with what is new"))
        origin = context.code_location_origin
        news = look(settings, instance, int(context.cursor), origin.location_name if origin is not None else None)
        cursor, said = _post_all(settings.alert_webhook, news, context.log.error)
        return dg.SensorResult(cursor=str(cursor), skip_reason=dg.SkipReason(said))

    return posted


def _post_all(webhook: SecretStr | None, news: News, log: Callable[[str], None]) -> tuple[int, str]:
    """The event up to which all alerts are posted or refused, and a summary. Raises `dagster.Failure` if the webhook
    could take none.

    An alert whose body the webhook refuses is logged and passed over: it would be refused at each tick, and block all
    later ones.
    """
    assert webhook is not None
    begun = time.monotonic()
    done, refused = None, 0
    for number, (event, body) in enumerate(news.alerts):
        late = time.monotonic() - begun > SECONDS_A_TICK
        try:
            if not late:
                post(webhook.get_secret_value(), body)
        except WebhookError as error:
            if error.refuses_body:
                log(f"{error} to this alert, which is not posted again: {body.text}")
                refused, done = refused + 1, event
                continue
            if done is None:
                raise dg.Failure(f"{error}; it is tried again at the next tick") from None
            late = True
        if late and done is not None:
            return done, f"{number} of {len(news.alerts)} alerts posted, the others at the next tick"
        done = event
    said = f"{len(news.alerts) - refused} alerts posted"
    return news.newest, said + (f", {refused} refused by the webhook" if refused else "")


def failed_runs(settings: Settings, instance: DagsterInstance, after: int, location: str | None) -> News:
    """Runs of our assets and jobs that failed after an event; runs of this code location, or of a command."""
    records = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(DagsterEventType.RUN_FAILURE, after_storage_id=after),
        limit=EVENTS_A_TICK,
        ascending=True,
    ).records
    found = []
    for record in records:
        run = instance.get_run_by_id(record.run_id)
        if run is None or _is_elsewhere(run, location) or not is_ours(settings, run):
            continue
        body = alert(
            "run",
            run_name(run),
            shard=run.tags.get(PARTITION_TAG, ""),
            run_id=run.run_id,
            reason=failure_reason(instance, run.run_id),
            timestamp=record.timestamp,
            dagster_url=settings.dagster_url,
            owners=settings.owners,
        )
        found.append((record.storage_id, body))
    return News(found, _last(records, after))


def changed_checks(settings: Settings, instance: DagsterInstance, after: int, location: str | None) -> News:
    """Our checks whose result after an event differs from that before, in runs of this code location or a command.

    A blocking check that fails ends its run, and the run's alert gives the reason. So the check has no alert of its
    own. A check of all shards has one alert, which names the shards that failed; its results for single shards have
    none. If it names other shards than before, that is a difference.

    The result before is read from Dagster's log and not kept in a cursor, so that it is right after restarts and
    resets.
    """
    records = _check_events(instance, after, limit=EVENTS_A_TICK, ascending=True)
    found, ours = [], our_keys(settings)
    for record in records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event is not None else None
        if (
            check is None
            or check.asset_key not in ours
            or SWEEP_RUN in check.metadata
            or _verdict(check) == _verdict_before(instance, check, record.timestamp)
        ):
            continue
        run = instance.get_run_by_id(record.run_id)
        if run is not None and (_is_elsewhere(run, location) or _is_reported_by_its_run(check, run)):
            continue
        body = alert(
            "check",
            f"{check.asset_key.to_user_string()}:{check.check_name}",
            shard=check.partition or "",
            run_id=record.run_id,
            reason=check.description or ("passed" if check.passed else "failed"),
            timestamp=record.timestamp,
            severity=_severity(check),
            dagster_url=settings.dagster_url,
            owners=settings.owners,
        )
        found.append((record.storage_id, body))
    return News(found, _last(records, after))


def run_name(run: dg.DagsterRun) -> str:
    """The job that a person would name: Dagster calls every run of a backfill or a UI button `__ASSET_JOB`."""
    if not run.job_name.startswith("__ASSET_JOB"):
        return run.job_name
    assets = {key.path[-1] for key in run.asset_selection or ()}
    if assets == set(CHAIN):
        return LOAD_JOB
    checks = {key.name for key in run.asset_check_selection or ()}
    return ", ".join(sorted(assets or checks)) or "run"


def _is_reported_by_its_run(check: dg.AssetCheckEvaluation, run: dg.DagsterRun) -> bool:
    return bool(check.blocking) and _severity(check) == "ERROR" and run.status != dg.DagsterRunStatus.SUCCESS


def _severity(check: dg.AssetCheckEvaluation) -> Literal["ERROR", "WARN", ""]:
    """The severity of a failed check; empty for a check that passed."""
    if check.passed:
        return ""
    return "WARN" if check.severity == dg.AssetCheckSeverity.WARN else "ERROR"


Verdict = tuple[Literal["ERROR", "WARN", ""], object, object]
"""The severity of a result, and the shards that a check of all shards names: other shards are news."""

PASSED: Verdict = ("", None, None)


def _verdict(check: dg.AssetCheckEvaluation) -> Verdict:
    failed, unread = check.metadata.get(FAILED_SHARDS), check.metadata.get(UNREAD_SHARDS)
    return _severity(check), failed and failed.value, unread and unread.value


def _verdict_before(instance: DagsterInstance, check: dg.AssetCheckEvaluation, timestamp: float) -> Verdict:
    """The verdict of the previous result of this check and partition; `PASSED` if it was never evaluated."""
    cursor = None
    while records := instance.event_log_storage.get_asset_check_execution_history(
        check.asset_check_key,
        limit=100,
        cursor=cursor,
        status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
        partition_filter=PartitionKeyFilter(key=check.partition),
    ):
        events = [record for record in records if record.event is not None and record.event.timestamp < timestamp]
        if events:
            latest = max(events, key=lambda record: record.event.timestamp if record.event is not None else 0.0)
            return _verdict(latest.evaluation) if latest.evaluation is not None else PASSED
        cursor = records[-1].id
    return PASSED


def _is_elsewhere(run: dg.DagsterRun, location: str | None) -> bool:
    origin = run.remote_job_origin
    return location is not None and origin is not None and origin.location_name != location


def _newest_failed_run(instance: DagsterInstance) -> int:
    return _last(instance.fetch_run_status_changes(DagsterEventType.RUN_FAILURE, limit=1).records, 0)


def _newest_check(instance: DagsterInstance) -> int:
    return _last(_check_events(instance, None, limit=1), 0)


def _check_events(
    instance: DagsterInstance, after: int | None, limit: int, *, ascending: bool = False
) -> Sequence[dg.EventLogRecord]:
    """Events of checks after a cursor, with the numbers that they have in all runs together."""
    wanted = dg.EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after)
    return events_of_all_runs(instance, wanted, limit, ascending=ascending)


def _last(records: Sequence[dg.EventLogRecord], otherwise: int) -> int:
    return max((record.storage_id for record in records), default=otherwise)
