"""Tests alerts to a webhook: each failed run or changed check is posted once, even if late, and without secrets."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest

from laion_assets.assets.check_by_shard import shard_check
from laion_assets.assets.location import CodeLocation
from laion_assets.automation.alerts import build_alerts
from laion_assets.automation.webhook import TRIES, Alert, WebhookError, alert, post
from laion_assets.definitions import build_definitions
from laion_assets.settings import load_settings
from laion_assets.terminal.runs import make_run
from laion_assets_tests.automation.recorded import Recorder

PASSWORD = "s3cret-hunter2"  # noqa: S105 - made up
PATH = "/services/T0/B0/token-of-the-webhook"
shards = dg.StaticPartitionsDefinition(["0", "1", "2", "3"])


@dg.asset(partitions_def=shards)
def raw_shard(context: dg.AssetExecutionContext) -> None:
    if context.partition_key in ("1", "2"):
        raise dg.Failure(f"shard {context.partition_key}: no answer from https://me:{PASSWORD}@mirror.example/x?sig=1")


FAILED = dg.AssetCheckResult(passed=False, description=f"12 rows are missing, see http://u:{PASSWORD}@host/")
WARNED = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="slow")
PASSED = dg.AssetCheckResult(passed=True)


class Verdict:
    """The result that the check `is_whole` returns. A test sets it."""

    now = FAILED


@pytest.fixture(autouse=True)
def _verdict() -> Iterator[None]:
    yield
    Verdict.now = FAILED


@dg.asset_check(asset=raw_shard, partitions_def=shards)
def is_whole() -> dg.AssetCheckResult:
    return Verdict.now


@dg.asset_check(asset=raw_shard, partitions_def=shards)
def is_there() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


DEFINITIONS = dg.Definitions([raw_shard], asset_checks=[is_whole, is_there], executor=dg.in_process_executor)


class Webhook:
    """A real HTTP server that keeps posted bodies. It answers with the statuses in `answers`, then with 200."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.tries = 0
        self.answers: list[int] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                webhook.tries += 1
                body = self.rfile.read(int(self.headers["content-length"]))
                status = webhook.answers.pop(0) if webhook.answers else 200
                if status == 200:
                    assert self.path == PATH
                    assert self.headers["content-type"] == "application/json"
                    webhook.bodies.append(json.loads(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}{PATH}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def sqlite() -> Iterator[dg.DagsterInstance]:
    """An instance with Dagster's default storage. It is slower than an instance in memory, and it numbers events
    differently, because each run has a separate file."""
    with dg.DagsterInstance.local_temp() as made:
        yield made


class Sensor:
    """Evaluates one of our sensors as the daemon does: each tick gets the cursor that the last tick returned."""

    def __init__(
        self,
        name: str,
        url: str,
        instance: dg.DagsterInstance,
        cursor: str | None = None,
        *,
        page: str | None = None,
        dataset: str = "laion400m",
        **more: object,
    ) -> None:
        settings = load_settings(dataset_name=dataset, alert_webhook=url, dagster_url=page, **more)
        self.repository = build_definitions(settings).get_repository_def()
        sensors = {sensor.name: sensor for sensor in build_alerts(settings)}
        self.sensor, self.instance = sensors[name], instance
        self.cursor = cursor
        if cursor is None:
            self.tick()

    def tick(self) -> str | None:
        """Evaluates the sensor once and returns its skip message. A tick that fails does not change the cursor."""
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, repository_def=self.repository, sensor_name=self.sensor.name
        ) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data.skip_message


def run(instance: dg.DagsterInstance, shard: str) -> dg.ExecuteInProcessResult:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    selected = [dg.AssetKey("raw_shard")]
    return job.execute_in_process(
        instance=instance, partition_key=shard, raise_on_error=False, asset_selection=selected
    )


def test_without_a_webhook_there_are_no_sensors() -> None:
    assert build_alerts(load_settings()) == []


def test_the_sensors_run_without_being_started(webhook: Webhook) -> None:
    for sensor in build_alerts(load_settings(alert_webhook=webhook.url)):
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
        assert PATH not in f"{sensor.description}{sensor.metadata}{sensor.tags}"


def test_a_failed_run_is_posted_once_with_its_reason(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    run(instance, "1")
    sensor = Sensor("alert_on_run_failure", webhook.url, instance)
    assert webhook.bodies == [], "what failed before the sensor was new is no news"
    failed = run(instance, "2")
    run(instance, "0")
    assert sensor.tick() == "1 alerts posted"
    assert sensor.tick() == "0 alerts posted"
    (body,) = webhook.bodies
    assert set(body) == {
        *("kind", "name", "state", "severity", "shard", "run_id", "link", "owner", "reason", "at", "text")
    }
    assert (body["kind"], body["name"], body["shard"]) == ("run", "raw_shard", "2")
    assert (body["state"], body["severity"]) == ("failed", "ERROR")
    assert body["run_id"] == failed.run_id
    assert body["reason"] == "shard 2: no answer from https://***@mirror.example/x?***"
    assert body["at"].endswith("+00:00")
    assert body["text"] == f"run raw_shard of shard 2 failed: {body['reason']}"


def test_a_failed_check_is_posted_once_and_one_that_passed_never(webhook: Webhook, sqlite: dg.DagsterInstance) -> None:
    sensor = Sensor("alert_on_failed_check", webhook.url, sqlite)
    done = run(sqlite, "0")
    assert done.success, "a failed check that blocks nothing fails no run"
    assert sensor.tick() == "1 alerts posted"
    assert sensor.tick() == "0 alerts posted"
    (body,) = webhook.bodies
    assert (body["kind"], body["name"], body["shard"]) == ("check", "raw_shard:is_whole", "0")
    assert body["reason"] == "12 rows are missing, see http://***@host/"
    assert body["run_id"] == done.run_id
    assert (body["state"], body["severity"]) == ("failed", "ERROR")
    run(sqlite, "0")
    assert sensor.tick() == "0 alerts posted", "a check that stays failed is no news"


def test_each_change_of_a_check_is_posted_once_also_when_the_daemon_was_restarted(
    webhook: Webhook, sqlite: dg.DagsterInstance
) -> None:
    sensor = Sensor("alert_on_failed_check", webhook.url, sqlite)
    told = []
    for verdict in (PASSED, FAILED, FAILED, PASSED, PASSED, WARNED, WARNED, FAILED, WARNED, PASSED):
        Verdict.now = verdict
        run(sqlite, "0")
        sensor = Sensor("alert_on_failed_check", webhook.url, sqlite, sensor.cursor)
        sensor.tick()
        told.append([(body["state"], body["severity"]) for body in webhook.bodies])
        webhook.bodies.clear()
    assert told == [
        [],
        [("failed", "ERROR")],
        [],
        [("recovered", "")],
        [],
        [("failed", "WARN")],
        [],
        [("failed", "ERROR")],
        [("failed", "WARN")],
        [("recovered", "")],
    ]


def test_changes_of_one_tick_are_posted_in_their_order(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    sensor = Sensor("alert_on_failed_check", webhook.url, instance)
    for verdict in (WARNED, WARNED, PASSED):
        Verdict.now = verdict
        run(instance, "0")
    webhook.answers = [200] + [503] * TRIES
    assert sensor.tick() == "1 of 2 alerts posted, the others at the next tick"
    assert sensor.tick() == "1 alerts posted"
    assert [body["text"] for body in webhook.bodies] == [
        "check raw_shard:is_whole of shard 0 failed (a warning): slow",
        "check raw_shard:is_whole of shard 0 recovered: passed",
    ]


def test_each_shard_s_check_is_followed_by_itself(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    sensor = Sensor("alert_on_failed_check", webhook.url, instance)
    for shard, verdict in (("0", FAILED), ("3", FAILED), ("3", PASSED), ("0", FAILED)):
        Verdict.now = verdict
        run(instance, shard)
        sensor.tick()
    assert [(body["shard"], body["state"]) for body in webhook.bodies] == [
        ("0", "failed"),
        ("3", "failed"),
        ("3", "recovered"),
    ]


def test_what_had_failed_before_the_sensor_began_is_told_only_when_it_recovers(
    webhook: Webhook, instance: dg.DagsterInstance
) -> None:
    run(instance, "0")
    sensor = Sensor("alert_on_failed_check", webhook.url, instance)
    run(instance, "0")
    assert sensor.tick() == "0 alerts posted"
    Verdict.now = PASSED
    run(instance, "0")
    assert sensor.tick() == "1 alerts posted"


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_webhook_that_fails_first_is_asked_again(webhook: Webhook, status: int) -> None:
    webhook.answers = [status, status]
    post(webhook.url, _some_alert())
    assert (webhook.tries, len(webhook.bodies)) == (3, 1)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_webhook_that_refuses_is_not_asked_again(webhook: Webhook, status: int) -> None:
    webhook.answers = [status]
    with pytest.raises(WebhookError, match=f"answered {status}"):
        post(webhook.url, _some_alert())
    assert webhook.tries == 1


def test_while_the_webhook_is_down_nothing_is_lost_and_nothing_is_posted_twice(
    webhook: Webhook, instance: dg.DagsterInstance
) -> None:
    sensor = Sensor("alert_on_run_failure", webhook.url, instance)
    for shard in ("1", "2", "1"):
        run(instance, shard)
    webhook.answers = [503] * TRIES
    with pytest.raises(dg.Failure, match="the webhook answered 503"):
        sensor.tick()
    webhook.answers = [200] + [503] * TRIES
    assert sensor.tick() == "1 of 3 alerts posted, the others at the next tick"
    assert sensor.tick() == "2 alerts posted"
    assert [body["shard"] for body in webhook.bodies] == ["1", "2", "1"]


@pytest.mark.parametrize("status", [400, 413])
def test_an_alert_that_the_webhook_refuses_does_not_keep_back_the_later_ones(
    webhook: Webhook, instance: dg.DagsterInstance, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    sensor = Sensor("alert_on_run_failure", webhook.url, instance)
    for shard in ("1", "2"):
        run(instance, shard)
    webhook.answers = [status]
    capfd.readouterr()
    assert sensor.tick() == "1 alerts posted, 1 refused by the webhook"
    logged = capfd.readouterr().err
    assert sensor.tick() == "0 alerts posted"
    assert [body["shard"] for body in webhook.bodies] == ["2"]
    assert f"the webhook answered {status} to this alert, which is not posted again: run raw_shard of shard 1" in logged
    assert PASSWORD not in logged


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_while_the_url_is_refused_nothing_is_lost(webhook: Webhook, instance: dg.DagsterInstance, status: int) -> None:
    sensor = Sensor("alert_on_run_failure", webhook.url, instance)
    run(instance, "1")
    webhook.answers = [status]
    with pytest.raises(dg.Failure, match=f"the webhook answered {status}"):
        sensor.tick()
    assert sensor.tick() == "1 alerts posted"


def test_of_two_datasets_in_one_code_location_each_posts_its_own_and_neither_a_job_of_others(
    webhook: Webhook, sqlite: dg.DagsterInstance
) -> None:
    @dg.asset
    def theirs() -> None:
        raise dg.Failure("not ours")

    @dg.asset_check(asset=theirs)
    def is_theirs() -> dg.AssetCheckResult:
        return FAILED

    names = ("alert_on_run_failure", "alert_on_failed_check")
    sensors = {
        prefix: [Sensor(f"{prefix}_{name}", webhook.url, sqlite, key_prefix=(prefix,)) for name in names]
        for prefix in ("a", "b")
    }
    job = build_definitions(load_settings(key_prefix=("b",))).resolve_job_def("b_load_shards")
    sqlite.report_run_failed(make_run(job, sqlite, assets=["raw_shard"], key="0"), "no space left")
    dg.materialize([theirs], instance=sqlite, raise_on_error=False)
    for asset, check in (("theirs", "is_theirs"), ("load_report", "nothing_is_stale")):
        key = dg.AssetKey(["a", asset] if asset == "load_report" else asset)
        sqlite.report_runless_asset_event(dg.AssetCheckEvaluation(asset_key=key, check_name=check, passed=False))
    told = {}
    for prefix, both in sensors.items():
        for sensor in both:
            sensor.tick()
        told[prefix] = [(body["kind"], body["name"]) for body in webhook.bodies]
        webhook.bodies.clear()
    assert told == {"a": [("check", "a/load_report:nothing_is_stale")], "b": [("run", "b_load_shards")]}


def test_a_webhook_that_cannot_be_reached_is_told_without_its_url(
    webhook: Webhook, instance: dg.DagsterInstance, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    sensor = Sensor("alert_on_failed_check", webhook.url, instance)
    run(instance, "0")
    webhook.close()
    with pytest.raises(dg.Failure) as raised:
        sensor.tick()
    failure = raised.value
    assert failure.description == "the webhook could not be reached: ConnectError; it is tried again at the next tick"
    assert failure.__suppress_context__, "the error of the network, which may name the URL, does not reach logs"
    shown = "".join(str(vars(record)) for record in caplog.records) + "".join(capfd.readouterr())
    assert "token-of-the-webhook" not in shown


def test_no_body_holds_a_secret(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    sensors = [Sensor(name, webhook.url, instance) for name in ("alert_on_run_failure", "alert_on_failed_check")]
    run(instance, "0")
    run(instance, "1")
    for sensor in sensors:
        sensor.tick()
    assert len(webhook.bodies) == 2
    assert PASSWORD not in json.dumps(webhook.bodies)


@dg.asset(partitions_def=shards)
def merged_shard(context: dg.AssetExecutionContext) -> None: ...


@dg.asset_check(asset=merged_shard, partitions_def=shards, blocking=True)
def gate() -> dg.AssetCheckResult:
    return Verdict.now


def test_a_failed_blocking_check_and_its_run_are_one_message(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    sensors = [Sensor(name, webhook.url, instance) for name in ("alert_on_run_failure", "alert_on_failed_check")]
    definitions = dg.Definitions([merged_shard], asset_checks=[gate], executor=dg.in_process_executor)
    job = definitions.resolve_implicit_global_asset_job_def()
    selected = [dg.AssetKey("merged_shard")]
    failed = job.execute_in_process(
        instance=instance, partition_key="3", raise_on_error=False, asset_selection=selected
    )
    assert not failed.success
    for sensor in sensors:
        sensor.tick()
    (body,) = webhook.bodies
    assert (body["kind"], body["name"], body["shard"]) == ("run", "merged_shard", "3")
    assert "gate" in body["reason"]
    assert "12 rows are missing" in body["reason"]
    Verdict.now = PASSED
    job.execute_in_process(instance=instance, partition_key="3")
    for sensor in sensors:
        sensor.tick()
    assert [(one["kind"], one["state"]) for one in webhook.bodies] == [("run", "failed"), ("check", "recovered")]


@pytest.mark.parametrize("unread", [False, True])
def test_each_check_of_all_shards_that_names_other_shards_is_posted(
    webhook: Webhook, sqlite: dg.DagsterInstance, unread: bool
) -> None:
    settings = load_settings(dataset_name="laion400m")
    location, bad = CodeLocation(settings), set[int]()
    Recorder(sqlite, settings).load(0, 1, 2)

    def look(_: object, shard: int) -> dg.AssetCheckResult:
        if unread and shard in bad:
            raise OSError("unreadable")
        return dg.AssetCheckResult(passed=shard not in bad, description="differs" if shard in bad else None)

    @dg.asset(partitions_def=location.shards)
    def clickhouse_partition() -> None: ...

    check = shard_check(location, "clickhouse_partition", "partition_matches_parquet", "")(look)
    definitions = dg.Definitions([clickhouse_partition], asset_checks=[check], executor=dg.in_process_executor)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection=set(check.check_keys)
    )
    sensors = [Sensor(name, webhook.url, sqlite) for name in ("alert_on_run_failure", "alert_on_failed_check")]
    kind, told = "check" if unread else "run", list[tuple[str, bool]]()
    for found in ({0}, {0, 1}, {2}, set[int]()):
        webhook.bodies.clear()
        bad.clear()
        bad.update(found)
        done = job.execute_in_process(instance=sqlite, raise_on_error=False)
        assert done.success == (unread or not found)
        for sensor in sensors:
            sensor.tick()
        (body,) = webhook.bodies
        assert body["kind"] == (kind if found else "check")
        told.append((body["state"], all(f"shard {shard}: " in body["reason"] for shard in found)))
        assert not any(f"shard {shard}: " in body["reason"] for shard in {0, 1, 2} - found)
    assert told == [*[("failed", True)] * 3, ("recovered", True)]


def test_a_message_has_a_link_and_an_owner(webhook: Webhook, instance: dg.DagsterInstance) -> None:
    sensor = Sensor("alert_on_run_failure", webhook.url, instance, page="https://dagster.example/")
    failed = run(instance, "1")
    sensor.tick()
    (body,) = webhook.bodies
    assert body["link"] == f"https://dagster.example/runs/{failed.run_id}"
    assert body["owner"] == "team:embeddings"
    assert body["text"].endswith(body["link"])


def test_once_a_day_one_message_says_what_still_fails(webhook: Webhook) -> None:
    with dg.DagsterInstance.local_temp() as instance:
        settings = load_settings(dataset_name="sample", alert_webhook=webhook.url)
        recorder = Recorder(instance, settings)
        recorder.fail(2, message="no space left")
        yesterday = str(time.time() - 86_400)
        sensor = Sensor("alert_digest", webhook.url, instance, yesterday, dataset="sample")
        assert sensor.tick() == "1 still fail"
        assert sensor.tick() == "not yet"
        (body,) = webhook.bodies
        assert (body["kind"], body["name"]) == ("digest", "sample")
        assert body["reason"] == "1 failure left: 1 shard failed: shard 2: no space left"
        recorder.succeed(2)
        sensor = Sensor("alert_digest", webhook.url, instance, yesterday, dataset="sample")
        assert sensor.tick() == "0 still fail"
        assert len(webhook.bodies) == 1, "where all is well nothing is posted"


@dg.asset
def vector_index() -> None: ...


@dg.asset_check(asset=vector_index)
def index_is_used() -> dg.AssetCheckResult:
    return Verdict.now


@dg.asset
def vector_cells() -> None: ...


@dg.asset_check(asset=vector_cells)
def centroids_fit() -> dg.AssetCheckResult:
    return Verdict.now


@pytest.mark.parametrize(
    ("index", "named"),
    [("hnsw", ["vector_index:index_is_used"]), ("cells", ["vector_cells:centroids_fit"]), ("both", None)],
)
def test_the_daily_message_names_checks_whose_last_result_is_a_failure(
    webhook: Webhook, sqlite: dg.DagsterInstance, index: str, named: list[str] | None
) -> None:
    """Names only checks of the indexes in the setting, because no other index is built again."""
    yesterday = str(time.time() - 86_400)
    indexes = [vector_index, index_is_used, vector_cells, centroids_fit]
    dg.materialize(indexes, instance=sqlite)
    sensor = Sensor("alert_digest", webhook.url, sqlite, yesterday, dataset="sample", index=index)
    named = named or ["vector_cells:centroids_fit", "vector_index:index_is_used"]
    assert sensor.tick() == f"{len(named)} still fail"
    said = "; ".join(f"{name}: 12 rows are missing, see http://***@host/" for name in named)
    assert webhook.bodies[0]["reason"] == f"{len(named)} failure{'s' if len(named) > 1 else ''} left: {said}"
    Verdict.now = PASSED
    dg.materialize(indexes, instance=sqlite)
    sensor = Sensor("alert_digest", webhook.url, sqlite, yesterday, dataset="sample", index=index)
    assert sensor.tick() == "0 still fail"


def test_a_daily_message_that_the_webhook_refuses_is_not_posted_again(
    webhook: Webhook, instance: dg.DagsterInstance
) -> None:
    Recorder(instance, load_settings(dataset_name="sample")).fail(2)
    sensor = Sensor("alert_digest", webhook.url, instance, str(time.time() - 86_400), dataset="sample")
    webhook.answers = [400]
    assert sensor.tick() == "1 still fail"
    assert sensor.tick() == "not yet"
    assert webhook.tries == 1


def test_a_report_that_is_no_longer_made_is_told_once_and_when_it_is_made_again(webhook: Webhook) -> None:
    with dg.DagsterInstance.local_temp() as instance:
        sensor = Sensor("alert_on_freshness", webhook.url, instance, "fresh")
        assert str(sensor.tick()).startswith("never, since "), "a report that was never made is as old as the sensor"
        assert sensor.tick() == sensor.cursor
        assert webhook.bodies == []
        instance.report_runless_asset_event(dg.AssetMaterialization("load_report"))
        assert sensor.tick() == "fresh"
        old = Sensor("alert_on_freshness", webhook.url, instance, "old")
        assert old.tick() == "fresh"
        (body,) = webhook.bodies
        assert (body["kind"], body["name"], body["state"]) == ("freshness", "load_report", "recovered")


def test_a_report_that_was_never_made_is_told_once(webhook: Webhook) -> None:
    with dg.DagsterInstance.local_temp() as instance:
        sensor = Sensor("alert_on_freshness", webhook.url, instance, f"never, since {time.time() - 100 * 3600}")
        assert [sensor.tick(), sensor.tick()] == ["old", "old"]
        (body,) = webhook.bodies
        assert (body["kind"], body["state"]) == ("freshness", "failed")
        assert "no report was ever made" in body["reason"]


def test_a_long_reason_is_cut() -> None:
    body = alert(
        "run", "load_shards", shard="", run_id="r", reason="x" * 5000, timestamp=0, dagster_url=None, owners=()
    )
    assert len(body.reason) == 1000
    assert body.text.startswith("run load_shards failed: xxx")


def _some_alert() -> Alert:
    return alert("run", "load_shards", shard="3", run_id="r", reason="why", timestamp=0, dagster_url=None, owners=())
