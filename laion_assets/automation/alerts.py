"""Alerts: failed runs, and checks that fail or recover, posted to a webhook, each change once. Dagster finds them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Literal

import dagster as dg
import tenacity
from dagster import DagsterEventType, DagsterInstance
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES

from laion_assets.health.keys import job_name
from laion_assets.health.runs import PARTITION_TAG, failure_reason
from laion_assets.redact import redact_text
from laion_assets.settings import Settings

TRIES = 5
TIMEOUT_SECONDS = 5.0
SECONDS_A_POST = 20.0
SECONDS_A_TICK = 30.0
"""Dagster gives a sensor 60 s a tick: what was not posted by then is posted at the next."""

EVENTS_A_TICK = 200


@dataclass(frozen=True)
class Alert:
    """The JSON body of a post, as docs/settings.md describes it.

    What it is about (`kind`, `name`, `shard`), what became of it (`state`, and the `severity` of what failed), the
    `run_id`, the `reason`, and when (`at`, ISO 8601, UTC). `text` says the same in one line, which is what Slack,
    Mattermost and Teams show of a body.
    """

    kind: Literal["run", "check"]
    name: str
    state: Literal["failed", "recovered"]
    severity: Literal["ERROR", "WARN", ""]
    shard: str
    run_id: str
    reason: str
    at: str
    text: str


class WebhookError(Exception):
    """The webhook did not take a post. Its words hold no part of the URL, which may be a secret."""

    def __init__(self, said: str, *, worth_retrying: bool) -> None:
        super().__init__(said)
        self.worth_retrying = worth_retrying


@dataclass(frozen=True)
class News:
    """Events after a cursor: their alerts by event, in order, and the last event that was looked at."""

    alerts: list[tuple[int, Alert]]
    newest: int


def alert(
    kind: Literal["run", "check"],
    name: str,
    *,
    shard: str,
    run_id: str,
    reason: str,
    timestamp: float,
    severity: Literal["ERROR", "WARN", ""] = "ERROR",
) -> Alert:
    """An alert without secrets: passwords in URLs of the reason are taken out. Without a severity it is a recovery."""
    became: Literal["failed", "recovered"] = "failed" if severity else "recovered"
    said = redact_text(reason)[:1000]
    at = datetime.fromtimestamp(timestamp, timezone.utc).isoformat(timespec="seconds")
    where = f" of shard {shard}" if shard else ""
    warned = " (a warning)" if severity == "WARN" else ""
    text = f"{kind} {name}{where} {became}{warned}: {said}"
    return Alert(kind, name, became, severity, shard, run_id, said, at, text)


def post(url: str, body: Alert) -> None:
    """Posts an alert; tries again on errors of the network and of the server (5xx, 429).

    Raises `WebhookError` when that did not help.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, WebhookError) and error.worth_retrying),
        stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(SECONDS_A_POST),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5.0),
        reraise=True,
    )
    attempts(_post_once, url, body)


def _post_once(url: str, body: Alert) -> None:
    # A quarter of what the code location takes to import, and only an alert needs it.
    import httpx

    try:
        status = httpx.post(url, json=asdict(body), timeout=TIMEOUT_SECONDS).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        again = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
        raise WebhookError(f"the webhook could not be reached: {type(error).__name__}", worth_retrying=again) from None
    if not 200 <= status < 300:
        raise WebhookError(f"the webhook answered {status}", worth_retrying=status >= 500 or status == 429)


def build_alerts(settings: Settings) -> list[dg.SensorDefinition]:
    """The two sensors; none without LAION_ALERT_WEBHOOK."""
    if settings.alert_webhook is None:
        return []
    url = settings.alert_webhook.get_secret_value()
    return [
        _sensor(
            job_name(settings, "alert_on_run_failure"),
            "Posts each failed run to the webhook, once, with its reason.",
            url,
            failed_runs,
            _newest_failed_run,
        ),
        _sensor(
            job_name(settings, "alert_on_failed_check"),
            "Posts each check that begins to fail or to warn, and that recovers, to the webhook, once: a failed check "
            "that blocks nothing fails no run, and one that stays failed is no news.",
            url,
            changed_checks,
            _newest_check,
        ),
    ]


def _sensor(
    name: str,
    description: str,
    url: str,
    look: Callable[[DagsterInstance, int, str | None], News],
    newest: Callable[[DagsterInstance], int],
) -> dg.SensorDefinition:
    """A sensor with a cursor of ours. Dagster's `run_failure_sensor` moves its own on also when the post failed, so
    that alerts are lost while a webhook is down."""

    @dg.sensor(
        name=name,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=description,
    )
    def posted(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = context.instance
        if context.cursor is None:
            # A new sensor starts now: what failed before it was started is no news.
            return dg.SensorResult(cursor=str(newest(instance)), skip_reason=dg.SkipReason("begins with what is new"))
        origin = context.code_location_origin
        news = look(instance, int(context.cursor), origin.location_name if origin is not None else None)
        cursor, said = _post_all(url, news)
        return dg.SensorResult(cursor=str(cursor), skip_reason=dg.SkipReason(said))

    return posted


def _post_all(url: str, news: News) -> tuple[int, str]:
    """The event up to which all is posted, and how it went. Raises `dagster.Failure` when nothing could be posted."""
    begun = time.monotonic()
    done = None
    for number, (event, body) in enumerate(news.alerts):
        late = time.monotonic() - begun > SECONDS_A_TICK
        try:
            if not late:
                post(url, body)
        except WebhookError as error:
            if done is None:
                raise dg.Failure(f"{error}; it is tried again at the next tick") from None
            late = True
        if late and done is not None:
            return done, f"{number} of {len(news.alerts)} alerts posted, the others at the next tick"
        done = event
    return news.newest, f"{len(news.alerts)} alerts posted"


def failed_runs(instance: DagsterInstance, after: int, location: str | None = None) -> News:
    """Runs of a code location, or of a command, that failed after an event."""
    records = instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(DagsterEventType.RUN_FAILURE, after_storage_id=after),
        limit=EVENTS_A_TICK,
        ascending=True,
    ).records
    found = []
    for record in records:
        run = instance.get_run_by_id(record.run_id)
        if run is None or _is_elsewhere(run, location):
            continue
        body = alert(
            "run",
            run.job_name,
            shard=run.tags.get(PARTITION_TAG, ""),
            run_id=run.run_id,
            reason=failure_reason(instance, run.run_id),
            timestamp=record.timestamp,
        )
        found.append((record.storage_id, body))
    return News(found, _last(records, after))


def changed_checks(instance: DagsterInstance, after: int, location: str | None = None) -> News:
    """Checks in runs of a code location, or of a command, that after an event came out other than the time before.

    What came before is read from Dagster's log and not kept in a cursor: it holds through restarts and resets.
    """
    records = instance.get_event_records(
        dg.EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after),
        limit=EVENTS_A_TICK,
        ascending=True,
    )
    found = []
    for record in records:
        event = record.event_log_entry.dagster_event
        check = event.asset_check_evaluation_data if event is not None else None
        if check is None or _severity(check) == _severity_before(instance, check, record.timestamp):
            continue
        run = instance.get_run_by_id(record.run_id)
        if run is not None and _is_elsewhere(run, location):
            continue
        body = alert(
            "check",
            f"{check.asset_key.to_user_string()}:{check.check_name}",
            shard=check.partition or "",
            run_id=record.run_id,
            reason=check.description or ("passed" if check.passed else "failed"),
            timestamp=record.timestamp,
            severity=_severity(check),
        )
        found.append((record.storage_id, body))
    return News(found, _last(records, after))


def _severity(check: dg.AssetCheckEvaluation) -> Literal["ERROR", "WARN", ""]:
    """Of a failed check; nothing for one that passed."""
    if check.passed:
        return ""
    return "WARN" if check.severity == dg.AssetCheckSeverity.WARN else "ERROR"


def _severity_before(
    instance: DagsterInstance, check: dg.AssetCheckEvaluation, timestamp: float
) -> Literal["ERROR", "WARN", ""]:
    """How the check of this partition came out the time before; one that never was evaluated had not failed."""
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
            return _severity(latest.evaluation) if latest.evaluation is not None else ""
        cursor = records[-1].id
    return ""


def _is_elsewhere(run: dg.DagsterRun, location: str | None) -> bool:
    origin = run.remote_job_origin
    return location is not None and origin is not None and origin.location_name != location


def _newest_failed_run(instance: DagsterInstance) -> int:
    return _last(instance.fetch_run_status_changes(DagsterEventType.RUN_FAILURE, limit=1).records, 0)


def _newest_check(instance: DagsterInstance) -> int:
    wanted = dg.EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    return _last(instance.get_event_records(wanted, limit=1), 0)


def _last(records: Sequence[dg.EventLogRecord], otherwise: int) -> int:
    return max((record.storage_id for record in records), default=otherwise)
