"""Tests which shards the schedules request, given loaded, queued, running and failed shards, and why they skip."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetKey, DagsterRunStatus
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.definitions.run_request import RunRequest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.loader import LoadingContextForTest

from laion_assets.automation.schedules import build_schedules
from laion_assets.definitions import build_definitions
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets_tests.automation.recorded import ORIGIN, Recorder

TICK = datetime(2026, 1, 5, 10, tzinfo=timezone.utc)


def twelve(folder: Path, **fields: object) -> Settings:
    """Settings for a dataset of twelve shards: four shards at a time, two retries."""
    text = 'name = "twelve"\nshards = 12\ndimension = 512\n[[sources]]\nurl = "{data_dir}/sample"\n'
    (folder / "twelve.toml").write_text(text)
    named: dict[str, object] = {"load_shards": 4, "retry_limit": 2, **fields}
    return load_settings(dataset_name=str(folder / "twelve.toml"), data_dir=folder / "data", **named)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return twelve(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as made:  # a schedule opens the instance again: an ephemeral one cannot be
        yield made


@pytest.fixture
def recorder(instance: dg.DagsterInstance, settings: Settings) -> Recorder:
    return Recorder(instance, settings)


def tick(settings: Settings, instance: dg.DagsterInstance, name: str) -> tuple[list[RunRequest], str | None]:
    """The run requests of one tick of a schedule, and its skip message if there are none."""
    definitions = build_definitions(settings)
    with dg.build_schedule_context(
        instance, scheduled_execution_time=TICK, repository_def=definitions.get_repository_def()
    ) as context:
        data = definitions.resolve_schedule_def(name).evaluate_tick(context)
    return list(data.run_requests or []), data.skip_message


def asked(settings: Settings, instance: dg.DagsterInstance, name: str = "load_next_shards") -> list[str | None]:
    return [request.partition_key for request in tick(settings, instance, name)[0]]


def why_none(settings: Settings, instance: dg.DagsterInstance, name: str = "load_next_shards") -> str:
    requests, reason = tick(settings, instance, name)
    assert requests == []
    assert reason is not None
    return reason


def test_the_first_tick_asks_for_the_first_shards(settings: Settings, instance: dg.DagsterInstance) -> None:
    requests, _ = tick(settings, instance, "load_next_shards")
    assert [request.partition_key for request in requests] == ["0", "1", "2", "3"]
    assert len({request.run_key for request in requests}) == 4
    for request in requests:
        assert request.tags["dagster/partition"] == request.partition_key
        assert request.tags["dagster/priority"] == "-1", "a person's run passes those of a schedule"


def test_the_next_missing_in_the_order_of_numbers(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.load_last(0, 1, 3)
    assert asked(settings, instance) == ["2", "4", "5", "6"]
    recorder.load_last(2, 4, 5, 6, 7, 8, 9)
    assert asked(settings, instance) == ["10", "11"], "10 follows 9, not 1"


def test_none_that_is_queued_running_or_failed(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.succeed(0)
    recorder.run(1, DagsterRunStatus.QUEUED)
    recorder.run(2, DagsterRunStatus.STARTED)
    recorder.fail(3)
    assert asked(settings, instance) == ["4", "5"], "two of the four at a time are under way"
    recorder.run(4, DagsterRunStatus.STARTING)
    recorder.run(5, DagsterRunStatus.NOT_STARTED)
    assert why_none(settings, instance) == "4 shards are queued or running, as many as are asked for at once"


def test_none_that_waits_in_a_backfill_for_its_run(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    backfill = recorder.backfill(0, 1, 2)
    assert asked(settings, instance) == ["3"], "three of the four at a time are asked for"
    backfill = recorder.make_runs(backfill, 0)
    assert asked(settings, instance) == ["3"], "a run, and two that wait for theirs"
    instance.update_backfill(backfill._replace(status=BulkActionStatus.CANCELED))
    assert asked(settings, instance) == ["1", "2", "3"]
    recorder.backfill(*range(12))
    assert why_none(settings, instance) == "12 shards are queued or running, as many as are asked for at once"


def test_a_shard_that_failed_in_a_backfill_is_failed_and_one_that_waits_in_another_is_not_retried(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.make_runs(recorder.backfill(0, 1), 1)
    recorder.fail(5, 6)
    recorder.backfill(5)
    assert asked(settings, instance, "retry_failed_shards") == ["6"]
    recorder.load_last(0)
    assert [history.state for history in read_histories(instance, settings, ["0", "1", "5", "6"])] == [
        "queued",
        "queued",
        "queued",
        "failed",
    ]


def test_shards_of_a_backfill_of_the_job_are_asked_for_by_it(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    origin = ORIGIN.get_partition_set_origin("load_shards_partition_set")
    backfill = recorder.backfill(0)._replace(
        backfill_id="of the job",
        asset_backfill_data=None,
        asset_selection=None,
        partition_set_origin=origin,
        partition_names=["0", "1", "2"],
    )
    instance.update_backfill(recorder.backfill(9)._replace(status=BulkActionStatus.COMPLETED))
    instance.add_backfill(backfill)
    assert asked(settings, instance) == ["3"]
    instance.update_backfill(backfill._replace(last_submitted_partition_name="1"))
    assert [history.state for history in read_histories(instance, settings, ["1", "2"])] == ["missing", "queued"]


def test_a_shard_that_was_only_fetched_or_merged_is_missing(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.load(0, upto="raw_shard")
    recorder.load(1, upto="merged_shard")
    recorder.load(2)
    assert asked(settings, instance) == ["0", "1", "3", "4"]


def test_it_says_why_when_it_asks_for_none(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.load_last(*range(11))
    recorder.fail(11)
    assert why_none(settings, instance) == "no shard is missing; 1 failed"
    recorder.succeed(11)
    assert why_none(settings, instance) == "all shards are loaded"


def test_runs_of_other_assets_of_a_shard_are_not_in_the_way(settings: Settings, instance: dg.DagsterInstance) -> None:
    definitions = build_definitions(settings)
    instance.create_run_for_job(
        definitions.resolve_job_def("report_health"),
        status=DagsterRunStatus.STARTED,
        asset_selection=frozenset({AssetKey("load_report")}),
        tags={"dagster/partition": "0"},
    )
    assert asked(settings, instance) == ["0", "1", "2", "3"]


def test_failed_shards_are_retried_until_the_limit(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    assert why_none(settings, instance, "retry_failed_shards") == "no shard failed"
    recorder.fail(3, 10)
    for failures in (2, 3):  # the first failure, then the two retries that the setting allows
        assert asked(settings, instance, "retry_failed_shards") == ["3", "10"]
        recorder.fail(3)
        assert asked(settings, instance, "retry_failed_shards") == (["3", "10"] if failures == 2 else ["10"])
    recorder.succeed(10)
    reason = "1 shard failed more than 2 times: correct the cause first"
    assert why_none(settings, instance, "retry_failed_shards") == reason


def test_a_failure_is_retried_once_however_often_the_schedule_ticks(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    (run,) = recorder.fail(3)
    keys = {tick(settings, instance, "retry_failed_shards")[0][0].run_key for _ in range(2)}
    assert keys == {f"retry/{run.run_id}"}, "Dagster starts no second run for a key that it knows"
    recorder.run(3, DagsterRunStatus.QUEUED)
    assert why_none(settings, instance, "retry_failed_shards") == "no shard failed"


def test_success_begins_the_count_of_failures_anew(
    settings: Settings, instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.fail(3, 3, 3)
    assert asked(settings, instance, "retry_failed_shards") == []
    recorder.succeed(3)
    recorder.fail(3)
    assert asked(settings, instance, "retry_failed_shards") == ["3"]


def test_without_retries_none_is_asked_for(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    none = twelve(tmp_path, retry_limit=0)
    Recorder(instance, none).fail(3)
    assert asked(none, instance, "retry_failed_shards") == []


@pytest.mark.parametrize(
    ("job", "assets"),
    [("load_shards", set(CHAIN)), ("observe_remote", {"remote_shard"}), ("report_health", {"load_report"})],
)
def test_a_job_is_what_it_says_and_no_more(settings: Settings, job: str, assets: set[str]) -> None:
    layer = build_definitions(settings).resolve_job_def(job).asset_layer
    selected = {key.to_user_string() for key in layer.selected_asset_keys}
    assert selected == assets
    assert {key.asset_key.to_user_string() for key in layer.asset_graph.asset_check_keys} <= assets


def test_schedules_tick_as_the_settings_say_and_stand_still_until_started(tmp_path: Path) -> None:
    settings = twelve(tmp_path, load_cron="5 * * * *", retry_cron="1 2 * * *", observe_cron="0 4 * * 1")
    schedules = {schedule.name: schedule for schedule in build_schedules(settings)}
    assert {name: schedule.cron_schedule for name, schedule in schedules.items()} == {
        "load_next_shards": "5 * * * *",
        "retry_failed_shards": "1 2 * * *",
        "observe_remote_shards": "0 4 * * 1",
        "report_load": settings.report_cron,
        "audit_partitions": settings.audit_cron,
        "update_what_is_stale": settings.update_cron,
    }
    for schedule in schedules.values():
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert schedule.description


def test_an_observed_change_makes_exactly_that_partition_stale(tmp_path: Path) -> None:
    settings = twelve(tmp_path)
    sample = settings.data_dir / "sample"
    for number in (0, 1):
        write_sample_shard(sample, number, 60)
    definitions = build_definitions(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        observe = definitions.resolve_job_def("observe_remote")
        load = definitions.resolve_job_def("load_shards")
        for shard in ("0", "1"):
            assert observe.execute_in_process(instance=instance).success, "also where nothing was fetched yet"
            raw = [AssetKey("raw_shard")]
            assert load.execute_in_process(instance=instance, partition_key=shard, asset_selection=raw).success
        instance.report_runless_asset_event(dg.AssetMaterialization("raw_shard", partition="of another dataset"))
        assert observe.execute_in_process(instance=instance).success
        assert _stale(definitions, instance) == []
        write_sample_shard(sample, 1, 70)
        assert observe.execute_in_process(instance=instance).success
        assert _stale(definitions, instance) == ["1"]


def _stale(definitions: dg.Definitions, instance: dg.DagsterInstance) -> list[str]:
    graph = definitions.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return [key for key in ("0", "1") if resolver.get_status(AssetKey("raw_shard"), key) == StaleStatus.STALE]
