"""Tests the report on a shard for scripted histories: state, figures, failures, and the error of the last run."""

import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from laion_assets.health.history import ShardHistory, hours_since_last_load, read_histories
from laion_assets.health.runs import failure_reason
from laion_assets.health.under_way import RunUnderWay, other_active_runs
from laion_assets.settings import Settings
from laion_assets_tests.automation.recorded import Recorder

KEYS = ["0", "1", "2", "3"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def recorder(instance: dg.DagsterInstance, settings: Settings) -> Recorder:
    return Recorder(instance, settings)


def of(recorder: Recorder, shard: int = 0) -> ShardHistory:
    return read_histories(recorder.instance, recorder.settings, KEYS)[shard]


def states(recorder: Recorder) -> list[str]:
    return [history.state for history in read_histories(recorder.instance, recorder.settings, KEYS)]


def test_a_shard_is_as_far_as_its_last_materialized_stage(recorder: Recorder) -> None:
    recorder.load(1, upto="raw_shard")
    recorder.load(2, upto="merged_shard")
    recorder.load(3)
    assert states(recorder) == ["missing", "fetched", "merged", "loaded"]


def test_a_loaded_shard_has_its_rows_seconds_and_time(recorder: Recorder) -> None:
    recorder.load(0, rows=7)
    recorder.load(0, rows=600, quarantined=3)
    history = of(recorder)
    assert (history.rows, history.quarantined) == (600, 3), "as of the last time it was loaded"
    assert history.seconds == {"raw_shard": 1.0, "merged_shard": 1.0, "clickhouse_partition": 1.0}
    assert history.rows_per_second == 200
    assert history.loaded_at == pytest.approx(time.time(), abs=60)
    assert (history.failures, history.error) == (0, "")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (DagsterRunStatus.QUEUED, "queued"),
        (DagsterRunStatus.NOT_STARTED, "queued"),
        (DagsterRunStatus.STARTING, "running"),
        (DagsterRunStatus.STARTED, "running"),
        (DagsterRunStatus.CANCELING, "running"),
    ],
)
def test_a_run_under_way_counts_before_all_else(recorder: Recorder, status: DagsterRunStatus, state: str) -> None:
    recorder.succeed(0)
    recorder.fail(0)
    run = recorder.run(0, status)
    history = of(recorder)
    assert (history.state, history.run_id) == (state, run.run_id)
    assert history.failures == 1, "what failed before is counted still"


def test_a_shard_that_failed_when_it_was_loaded_again_is_failed_and_keeps_its_rows(recorder: Recorder) -> None:
    recorder.load(0, rows=500)
    recorder.run(0, DagsterRunStatus.SUCCESS)
    (run,) = recorder.fail(0, message="the mirror is gone")
    history = of(recorder)
    assert (history.state, history.run_id, history.error) == ("failed", run.run_id, "the mirror is gone")
    assert history.rows == 500, "they stand in the table still"


def test_failures_are_counted_since_the_last_success(recorder: Recorder) -> None:
    recorder.fail(0, 0)
    assert (of(recorder).state, of(recorder).failures) == ("failed", 2)
    recorder.succeed(0)
    assert (of(recorder).state, of(recorder).failures) == ("loaded", 0)
    recorder.fail(0)
    assert of(recorder).failures == 1


def test_a_canceled_run_is_no_failure_and_says_so(recorder: Recorder) -> None:
    recorder.instance.report_run_canceled(recorder.run(0, DagsterRunStatus.STARTED), "Run canceled by its owner.")
    history = of(recorder)
    assert (history.state, history.last_run) == ("missing", "canceled")
    assert (history.failures, history.error) == (0, "Run canceled by its owner.")


def test_runs_of_other_assets_and_other_partitions_do_not_count(
    instance: dg.DagsterInstance, recorder: Recorder
) -> None:
    recorder.fail(0)

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(KEYS))
    def thumbnails() -> None:
        raise dg.Failure("nothing to do with shards' state")

    dg.materialize([thumbnails], partition_key="1", instance=instance, raise_on_error=False)
    instance.report_runless_asset_event(dg.AssetMaterialization("clickhouse_partition", partition="elsewhere"))
    assert states(recorder) == ["failed", "missing", "missing", "missing"]


def test_a_job_of_somebody_else_with_a_partition_of_the_same_name_is_no_run_of_a_shard(recorder: Recorder) -> None:
    @dg.op
    def other() -> None: ...

    @dg.job
    def nightly() -> None:
        other()

    for status in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.FAILURE):
        recorder.instance.create_run_for_job(nightly, status=status, tags={"dagster/partition": "2"})
    assert states(recorder) == ["missing"] * 4
    recorder.instance.create_run_for_job(nightly, status=DagsterRunStatus.STARTED)
    assert other_active_runs(recorder.instance, recorder.settings) == []


def test_two_datasets_with_prefixes_share_an_instance_and_do_not_meet(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    first, second = (
        Recorder(instance, settings.model_copy(update={"key_prefix": prefix})) for prefix in (("one",), ("two", "b"))
    )
    first.load(0, rows=7)
    first.fail(1)
    first.backfill(2)
    second.load(1)
    second.run(3, DagsterRunStatus.STARTED)
    assert states(first) == ["loaded", "failed", "queued", "missing"]
    assert states(second) == ["missing", "loaded", "missing", "running"]
    assert {job.name for job in second.definitions.resolve_all_job_defs()} >= {"two_b_load_shards"}


def test_a_canceled_backfill_leaves_its_loaded_shards_loaded(recorder: Recorder) -> None:
    recorder.load(0, 1)
    for shard in (0, 1, 2):
        recorder.instance.report_run_canceled(recorder.run(shard, DagsterRunStatus.QUEUED))
    assert states(recorder)[:3] == ["loaded", "loaded", "missing"]
    assert [of(recorder, shard).last_run for shard in (0, 1, 2)] == ["canceled"] * 3


def test_a_run_that_waited_while_another_loaded_its_shard_and_then_failed_is_the_last_one(recorder: Recorder) -> None:
    waiting = recorder.run(0, DagsterRunStatus.QUEUED)
    recorder.load(0)
    recorder.instance.report_run_failed(waiting, "the mirror is gone")
    history = of(recorder)
    assert (history.progress, history.state, history.error) == ("loaded", "failed", "the mirror is gone")


def test_a_partial_run_that_fails_makes_its_shard_failed(recorder: Recorder) -> None:
    recorder.load(0, upto="merged_shard")
    recorder.run(0, DagsterRunStatus.FAILURE, "clickhouse_partition")
    assert of(recorder).state == "failed"


def test_runs_of_no_shard_are_told_apart(recorder: Recorder) -> None:
    recorder.run(0, DagsterRunStatus.STARTED)
    index = frozenset({dg.AssetKey("vector_index"), dg.AssetKey("recall_report")})
    job = recorder.definitions.resolve_job_def("build_index")
    run = recorder.instance.create_run_for_job(job, status=DagsterRunStatus.STARTED, asset_selection=index)
    health = recorder.definitions.resolve_job_def("report_health")
    recorder.instance.create_run_for_job(health, status=DagsterRunStatus.SUCCESS)
    assert other_active_runs(recorder.instance, recorder.settings) == [
        RunUnderWay(run.run_id, "running", "recall_report, vector_index", assets=("recall_report", "vector_index"))
    ]


def test_shards_are_told_in_the_order_that_was_asked_for(recorder: Recorder) -> None:
    recorder.load(3, 0)
    assert [history.key for history in read_histories(recorder.instance, recorder.settings, ["3", "1", "0"])] == [
        "3",
        "1",
        "0",
    ]


def test_errors_are_left_out_where_nobody_reads_them(recorder: Recorder) -> None:
    recorder.fail(0)
    (history,) = read_histories(recorder.instance, recorder.settings, ["0"], with_errors=False)
    assert (history.state, history.failures, history.error) == ("failed", 1, "")


def test_hours_since_the_last_load(recorder: Recorder) -> None:
    assert hours_since_last_load(read_histories(recorder.instance, recorder.settings, KEYS)) is None
    recorder.load(1)
    assert hours_since_last_load(read_histories(recorder.instance, recorder.settings, KEYS)) == pytest.approx(
        0, abs=0.02
    )


def _reason(instance: dg.DagsterInstance, *definitions: dg.AssetsDefinition | dg.AssetChecksDefinition) -> str:
    result = dg.materialize([*definitions], instance=instance, raise_on_error=False)
    assert not result.success
    return failure_reason(instance, result.run_id)


def test_the_reason_is_the_failed_step_s_own_words(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def clear() -> None:
        raise dg.Failure("shard 3:\n  found 12 rows,   expected 13")

    assert _reason(instance, clear) == "shard 3: found 12 rows, expected 13"


def test_the_reason_of_an_error_that_is_not_ours_is_its_cause(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def unclear() -> None:
        raise ValueError("not expected at all")

    assert _reason(instance, unclear) == "ValueError: not expected at all"


def test_the_reason_of_a_run_that_a_check_stopped_is_the_check_s(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def doubtful() -> None: ...

    @dg.asset_check(asset=doubtful, blocking=True)
    def rows_agree() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description="12 rows, known are 13")

    assert "check rows_agree: 12 rows, known are 13" in _reason(instance, doubtful, rows_agree)


def test_the_reason_holds_no_password(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def leaking() -> None:
        raise ValueError("cannot reach http://user:hunter2@host:8123/?token=abc")

    assert _reason(instance, leaking) == "ValueError: cannot reach http://***@host:8123/?***"


def test_the_reason_of_a_run_whose_process_was_killed_is_what_the_monitor_said(recorder: Recorder) -> None:
    (run,) = recorder.fail(0, message="The command that executed this run was killed.")
    assert failure_reason(recorder.instance, run.run_id) == "The command that executed this run was killed."


def test_a_run_that_is_not_known_has_a_reason_too(instance: dg.DagsterInstance) -> None:
    assert failure_reason(instance, "no such run") == "the run ended before it could say why"
