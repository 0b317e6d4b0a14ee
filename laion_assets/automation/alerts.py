"""Alerts: run failures and failed checks posted to a webhook, each once. What failed is found by Dagster."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import dagster as dg
import httpx
import stamina
from dagster import DagsterEventType

from laion_assets.health.history import PARTITION_TAG, failure_reason
from laion_assets.redact import redact_text
from laion_assets.settings import Settings

TRIES = 5
TIMEOUT_SECONDS = 10.0
CHECKS_A_TICK = 200


@dataclass(frozen=True)
class Alert:
    """The JSON body of a post: what failed ("run" or "check"), its name, shard, run, reason, and when (ISO 8601, UTC).

    `text` says the same in one line, which is what Slack, Mattermost and Teams show of a body.
    """

    kind: str
    name: str
    shard: str
    run_id: str
    reason: str
    at: str
    text: str


def alert(kind: str, name: str, *, shard: str, run_id: str, reason: str, timestamp: float) -> Alert:
    """An alert without secrets: passwords in URLs of the reason are taken out."""
    said = redact_text(reason)[:1000]
    at = datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    where = f" of shard {shard}" if shard else ""
    return Alert(kind, name, shard, run_id, said, at, f"{kind} {name}{where} failed: {said}")


def post(url: str, body: Alert) -> None:
    """Posts an alert; tries again on errors of the network and of the server (5xx, 429).

    Raises `httpx.HTTPError` when that did not help; its message does not reach logs, since the URL may be a secret.
    """

    def worth_retrying(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code >= 500 or error.response.status_code == 429
        return isinstance(error, httpx.TransportError)

    for attempt in stamina.retry_context(on=worth_retrying, attempts=TRIES, wait_initial=0.2, wait_max=5.0):
        with attempt:
            httpx.post(url, json=asdict(body), timeout=TIMEOUT_SECONDS).raise_for_status()


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """The two sensors; none without LAION_ALERT_WEBHOOK."""
    if settings.alert_webhook is None:
        return []
    url = settings.alert_webhook.get_secret_value()

    @dg.run_failure_sensor(
        name="alert_on_run_failure",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts each failed run to the webhook, once, with its reason.",
    )
    def alert_on_run_failure(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        reason = failure_reason(context.instance, run.run_id)
        shard = run.tags.get(PARTITION_TAG, "")
        body = alert("run", run.job_name, shard=shard, run_id=run.run_id, reason=reason, timestamp=_now())
        _post_or_fail(url, body)

    @dg.sensor(
        name="alert_on_failed_check",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts each failed check to the webhook, once: a failed check that blocks nothing fails no run.",
    )
    def alert_on_failed_check(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        after = int(context.cursor) if context.cursor else _newest_event(instance)
        failed, newest = failed_checks(instance, after)
        for body in failed:
            _post_or_fail(url, body)
        return dg.SensorResult(cursor=str(newest), skip_reason=dg.SkipReason(f"{len(failed)} failed checks posted"))

    return [alert_on_run_failure, alert_on_failed_check]


def failed_checks(instance: dg.DagsterInstance, after: int) -> tuple[list[Alert], int]:
    """Checks that failed after an event, and the last event that was looked at."""
    records = instance.get_event_records(
        dg.EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after),
        limit=CHECKS_A_TICK,
        ascending=True,
    )
    found = []
    for record in records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event is not None else None
        if check is None or check.passed:
            continue
        name = f"{check.asset_key.to_user_string()}:{check.check_name}"
        found.append(
            alert(
                "check",
                name,
                shard=check.partition or "",
                run_id=record.run_id,
                reason=check.description or "failed",
                timestamp=record.timestamp,
            )
        )
    return found, max((record.storage_id for record in records), default=after)


def _newest_event(instance: dg.DagsterInstance) -> int:
    """A new sensor starts now: checks that failed before it was started are no news."""
    records = instance.get_event_records(
        dg.EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION), limit=1
    )
    return records[0].storage_id if records else 0


def _post_or_fail(url: str, body: Alert) -> None:
    try:
        post(url, body)
    except httpx.HTTPStatusError as error:
        raise dg.Failure(f"the webhook answered {error.response.status_code}", allow_retries=True) from None
    except httpx.HTTPError as error:
        raise dg.Failure(f"the webhook could not be reached: {type(error).__name__}", allow_retries=True) from None


def _now() -> float:
    return datetime.now(timezone.utc).timestamp()
