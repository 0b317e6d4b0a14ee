"""Alerts without an event: once a day all that still fails, in one message; and a load report that is too old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

import dagster as dg
from dagster import DagsterInstance

from laion_assets.automation.webhook import Kind, WebhookError, alert, post
from laion_assets.dagster_internals.records import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from laion_assets.health.facts import read_audit
from laion_assets.health.finding import naming
from laion_assets.health.history import read_histories
from laion_assets.health.keys import asset_key, job_name, our_keys
from laion_assets.settings import Settings
from laion_assets.words import counted, keys_in_short, lasting

SECONDS_BETWEEN = 60

NEVER = "never, since "
"""Begins the cursor while there is no report; the Unix time of the sensor's first tick follows."""


def overdue_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """The two sensors; none without a webhook."""

    @dg.sensor(
        name=job_name(settings, "alert_digest"),
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts in one message what still fails, at the times of LAION_DIGEST_CRON. If nothing fails, it "
        "posts nothing.",
    )
    def alert_digest(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        now = time.time()
        if context.cursor is None or now < _next(settings.digest_cron, float(context.cursor)):
            return dg.SensorResult(cursor=context.cursor or str(now), skip_reason=dg.SkipReason("not yet"))
        assert context.repository_def is not None, "the daemon evaluates sensors in the process of their code location"
        failing = still_failing(settings, context.instance, checks_of_the_table(settings, context.repository_def))
        if failing:
            what = f"{counted(len(failing), 'failure')} left: {'; '.join(failing)}"
            _post(settings, "digest", settings.dataset.name, what, severity="ERROR", log=context.log.error)
        return dg.SensorResult(cursor=str(now), skip_reason=dg.SkipReason(f"{len(failing)} still fail"))

    @dg.sensor(
        name=job_name(settings, "alert_on_freshness"),
        minimum_interval_seconds=SECONDS_BETWEEN,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Posts when load_report is older than LAION_FRESH_HOURS, or was not made for this time since the "
        "sensor began, and when it is fresh again.",
    )
    def alert_on_freshness(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        record = next(
            iter(context.instance.fetch_materializations(asset_key(settings, "load_report"), limit=1).records), None
        )
        before, now = context.cursor or "fresh", time.time()
        # The age of a report that was never made is that of the sensor, which its cursor keeps.
        began = float(before.removeprefix(NEVER)) if before.startswith(NEVER) else now
        age = now - (began if record is None else record.timestamp)
        state = "fresh" if record is not None else f"{NEVER}{began}"
        if age > settings.fresh_hours * 3600 or (record is None and before == "old"):
            state = "old"
        if (state == "old") != (before == "old"):
            made = f"the report was made {lasting(age)} ago" if record is not None else "no report was ever made"
            reason = f"{made}, {settings.fresh_hours:g} hours are allowed"
            severity: Literal["WARN", ""] = "WARN" if state == "old" else ""
            _post(settings, "freshness", "load_report", reason, severity=severity, log=context.log.error)
        return dg.SensorResult(cursor=state, skip_reason=dg.SkipReason(state))

    return [alert_digest, alert_on_freshness]


def checks_of_the_table(settings: Settings, repository: dg.RepositoryDefinition) -> list[dg.AssetCheckKey]:
    """Our checks without partitions, in order; those of an index only if LAION_INDEX asks for it. Nobody builds another
    index again, so its last failure would be posted for ever."""
    idle = {
        asset_key(settings, name)
        for name, builds, other in (
            ("vector_index", settings.builds_graphs, settings.builds_cells),
            ("vector_cells", settings.builds_cells, settings.builds_graphs),
        )
        if other and not builds
    }
    graph, ours = repository.asset_graph, our_keys(settings) - idle
    found = (key for key in graph.asset_check_keys if key.asset_key in ours)
    return sorted((key for key in found if graph.get(key).partitions_def is None), key=lambda key: key.to_user_string())


def still_failing(settings: Settings, instance: DagsterInstance, checks: Iterable[dg.AssetCheckKey]) -> list[str]:
    """Failed shards, those of these checks whose last result is a failure, and partitions that failed an audit."""
    histories = read_histories(instance, settings)
    failed = [history for history in histories if history.state == "failed"]
    said = []
    if failed:
        why = naming([f"shard {history.key}: {history.error}" for history in failed])
        said.append(f"{counted(len(failed), 'shard')} failed: {why}")
    audit = read_audit(instance, settings, histories)
    if audit.failed:
        said.append(f"partitions that failed their audit: {keys_in_short(audit.failed)}")
    for key in checks:
        check = _last_result(instance, key)
        # The failed shards are in the list already, by name.
        if check is not None and not check.passed and key.name != "no_shards_left_failed":
            said.append(f"{key.asset_key.path[-1]}:{key.name}: {check.description or 'failed'}")
    return said


def _last_result(instance: DagsterInstance, key: dg.AssetCheckKey) -> dg.AssetCheckEvaluation | None:
    """The last result of a check, None if there is none. Results are not asked for by asset: the event of a result has
    no asset key in Dagster's storage."""
    records = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
    )
    return records[0].evaluation if records else None


def _next(cron: str, after: float) -> float:
    # Imported only when a schedule is read: the import was a seventh of what importing the code location takes over
    # Dagster.
    from croniter import croniter

    return float(croniter(cron, after).get_next())


def _post(
    settings: Settings,
    kind: Kind,
    name: str,
    reason: str,
    *,
    severity: Literal["ERROR", "WARN", ""],
    log: Callable[[str], None],
) -> None:
    """Posts one message, or logs it if its body is refused. Raises `dagster.Failure` if the webhook cannot take
    it now: the next tick tries again."""
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
        if error.refuses_body:
            log(f"{error} to this alert, which is not posted again: {body.text}")
            return
        raise dg.Failure(f"{error}; it is tried again at the next tick") from None
