"""Alerts without an event: once a day all that still fails, in one message; and a load report that is too old."""

from __future__ import annotations

import time
from typing import Literal

import dagster as dg
from dagster import DagsterInstance

from laion_assets.automation.webhook import Kind, WebhookError, alert, post
from laion_assets.health.facts import read_audit
from laion_assets.health.finding import naming
from laion_assets.health.history import read_histories
from laion_assets.health.keys import asset_key, job_name
from laion_assets.settings import Settings
from laion_assets.words import counted, keys_in_short, lasting

CHECKED_ONCE = ("load_report", "vector_index", "recall_report", "clip_encoders")
"""Assets of the whole table; their checks have no partitions."""

SECONDS_BETWEEN = 60


def overdue_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The two sensors; none without a webhook."""

    @dg.sensor(
        name=job_name(settings, "alert_digest"),
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts in one message what still fails, at the times of LAION_DIGEST_CRON; nothing where all is "
        "well.",
    )
    def alert_digest(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        if context.cursor is None or now < _next(settings.digest_cron, float(context.cursor)):
            return dg.SensorResult(cursor=context.cursor or str(now), skip_reason=dg.SkipReason("not yet"))
        failing = still_failing(settings, context.instance)
        if failing:
            what = f"{counted(len(failing), 'failure')} left: {'; '.join(failing)}"
            _post(settings, "digest", settings.dataset.name, what, severity="ERROR")
        return dg.SensorResult(cursor=str(now), skip_reason=dg.SkipReason(f"{len(failing)} still fail"))

    @dg.sensor(
        name=job_name(settings, "alert_on_freshness"),
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts when load_report is older than LAION_FRESH_HOURS, and when it is fresh again.",
    )
    def alert_on_freshness(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        record = next(
            iter(context.instance.fetch_materializations(asset_key(settings, "load_report"), limit=1).records), None
        )
        age = 0.0 if record is None else time.time() - record.timestamp
        state = "old" if age > settings.fresh_hours * 3600 else "fresh"
        if state != (context.cursor or "fresh"):
            reason = f"the report was made {lasting(age)} ago, {settings.fresh_hours:g} hours are allowed"
            _post(settings, "freshness", "load_report", reason, severity="WARN" if state == "old" else "")
        return dg.SensorResult(cursor=state, skip_reason=dg.SkipReason(state))

    return [alert_digest, alert_on_freshness]


def still_failing(settings: Settings, instance: DagsterInstance) -> list[str]:
    """Failed shards, checks of the whole table whose last result is a failure, and partitions that failed an audit."""
    histories = read_histories(instance, settings)
    failed = [history for history in histories if history.state == "failed"]
    said = []
    if failed:
        why = naming([f"shard {history.key}: {history.error}" for history in failed])
        said.append(f"{counted(len(failed), 'shard')} failed: {why}")
    audit = read_audit(instance, settings, histories)
    if audit.failed:
        said.append(f"partitions that failed their audit: {keys_in_short(audit.failed)}")
    keys = {asset_key(settings, name) for name in CHECKED_ONCE}
    for key, check in _last_checks(instance, keys).items():
        # The failed shards are in the list already, by name.
        if not check.passed and key.name != "no_shards_left_failed":
            said.append(f"{key.asset_key.path[-1]}:{key.name}: {check.description or 'failed'}")
    return said


def _last_checks(
    instance: DagsterInstance, assets: set[dg.AssetKey]
) -> dict[dg.AssetCheckKey, dg.AssetCheckEvaluation]:
    """The last result of every check of these assets that Dagster has recorded."""
    found: dict[dg.AssetCheckKey, dg.AssetCheckEvaluation] = {}
    for asset in sorted(assets):
        wanted = dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION, asset_key=asset)
        for record in instance.event_log_storage.get_event_records(wanted, limit=100):
            event = record.event_log_entry.dagster_event
            check = event.asset_check_evaluation_data if event is not None else None
            if check is not None:
                found.setdefault(check.asset_check_key, check)
    return found


def _next(cron: str, after: float) -> float:
    # Imported only when a schedule is read: the import was a seventh of what importing the code location takes over
    # Dagster.
    from croniter import croniter

    return float(croniter(cron, after).get_next())


def _post(settings: Settings, kind: Kind, name: str, reason: str, *, severity: Literal["ERROR", "WARN", ""]) -> None:
    """Posts one message. Raises `dagster.Failure` if the webhook refuses it: the next tick tries again."""
    assert settings.alert_webhook is not None
    body = alert(
        kind,
        name,
        shard="",
        run_id="",
        reason=reason,
        timestamp=time.time(),
        severity=severity,
        dagster_url=settings.dagster_url,
        owners=settings.owners,
    )
    try:
        post(settings.alert_webhook.get_secret_value(), body)
    except WebhookError as error:
        raise dg.Failure(f"{error}; it is tried again at the next tick") from None
