"""Tests when an index build is requested, for scripted histories of loads, builds, failures and a lost cursor."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.events import StepMaterializationData

from laion_assets.automation.milestones import MilestoneCondition, index_condition, report_condition
from laion_assets.health.history import COVERED_SHARDS, LOADS_SEEN
from laion_assets.health.upkeep import milestone
from laion_assets.shard_numbers import as_ranges

TOTAL, FIRST, STEP = 9, 3, 2
KEYS = {shard: str(shard) for shard in range(TOTAL)}
shards = dg.StaticPartitionsDefinition([str(number) for number in range(TOTAL)])
INDEX = dg.AssetKey("vector_index")
REPORT = dg.AssetKey("recall_report")


@dg.asset(partitions_def=shards)
def clickhouse_partition() -> None: ...


def index_with(parameters: str) -> dg.AssetsDefinition:
    """The index asset, for these index parameters."""
    condition = index_condition(
        MilestoneCondition(
            dg.AssetKey("clickhouse_partition"), first=FIRST, step=STEP, keys=KEYS, parameters=parameters
        )
    )

    @dg.asset(name="vector_index", deps=[clickhouse_partition], automation_condition=condition)
    def index() -> None: ...

    return index


vector_index = index_with("bf16, M 64")


@dg.asset(deps=[vector_index], automation_condition=report_condition())
def recall_report() -> None: ...


def definitions_for(parameters: str) -> dg.Definitions:
    """The code location with these index parameters."""
    return dg.Definitions([clickhouse_partition, index_with(parameters), recall_report])


class History:
    """A Dagster instance whose events the test writes, and the automation that a test evaluates tick by tick."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.definitions = dg.Definitions([clickhouse_partition, vector_index, recall_report])
        self.cursor: AssetDaemonCursor | None = None
        self.now = datetime.now(timezone.utc)

    def run(self, asset: str, status: dg.DagsterRunStatus, tags: dict[str, str] | None = None) -> dg.DagsterRun:
        """Creates a run of an asset with this status."""
        key = dg.AssetKey(asset)
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={key})
        return self.instance.create_run_for_job(job, asset_selection=frozenset({key}), status=status, tags=tags)

    def load(self, *numbers: int) -> None:
        for number in numbers:
            event = dg.AssetMaterialization("clickhouse_partition", partition=str(number))
            self.instance.report_runless_asset_event(event)

    def last_load(self) -> int:
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        return max(self.instance.get_latest_storage_id_by_partition(clickhouse_partition.key, kind).values())

    def build(self, *covered: int, seen: int | None = None) -> None:
        metadata: dict[str, Any] = {COVERED_SHARDS: as_ranges(covered)}
        if seen is not None:
            metadata[LOADS_SEEN] = seen
        self.instance.report_runless_asset_event(dg.AssetMaterialization("vector_index", metadata=metadata))

    def asked(self) -> set[str]:
        """Evaluates one tick and returns the assets that it requests."""
        result = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=self.cursor, evaluation_time=self.now
        )
        self.cursor = result.cursor
        return {key.to_user_string() for key in (INDEX, REPORT) if result.get_num_requested(key) > 0}


@pytest.fixture
def history() -> Iterator[History]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield History(instance)


@pytest.mark.parametrize(
    ("loaded", "expected"), [(0, 0), (2, 0), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7), (9, 9), (10, 9)]
)
def test_milestones_are_the_first_then_every_step_and_the_last(loaded: int, expected: int) -> None:
    assert milestone(loaded, first=FIRST, step=STEP, total=TOTAL) == expected


def test_a_dataset_smaller_than_the_first_milestone_is_indexed_when_it_is_whole() -> None:
    assert [milestone(loaded, first=10, step=10, total=2) for loaded in (0, 1, 2)] == [0, 0, 2]


def test_nothing_is_asked_for_before_the_first_milestone(history: History) -> None:
    assert history.asked() == set()
    history.load(0, 1)
    assert history.asked() == set()


def test_index_then_report_at_a_milestone_and_once(history: History) -> None:
    history.load(0, 1, 2)
    assert history.asked() == {"vector_index"}
    assert history.asked() == set(), "one milestone is asked for once, and no report before the index"
    history.build(0, 1, 2)
    assert history.asked() == {"recall_report"}
    history.load(3)
    assert history.asked() == set(), "between milestones nothing is built"
    history.load(4)
    assert "vector_index" in history.asked()


def test_the_last_partition_is_a_milestone(history: History) -> None:
    history.load(*range(8))
    history.asked()
    history.build(*range(8))
    assert "vector_index" not in history.asked()
    history.load(8)
    assert "vector_index" in history.asked()


def test_after_a_failure_it_is_asked_for_at_the_next_milestone_and_not_before(history: History) -> None:
    history.load(0, 1, 2)
    assert "vector_index" in history.asked()
    for _ in range(3):  # the run failed: nothing was materialized
        assert history.asked() == set()
    history.load(3)
    assert history.asked() == set()
    history.load(4)
    assert "vector_index" in history.asked()


@pytest.mark.parametrize("reason", ["other parameters", "a day"])
def test_any_milestone_is_asked_for_while_loads_run_and_again_for_the_reasons_of_the_last(
    history: History, reason: str
) -> None:
    history.run("clickhouse_partition", dg.DagsterRunStatus.STARTED, {"dagster/partition": "3"})
    history.load(0, 1, 2)
    assert "vector_index" in history.asked(), "it does not wait for the load"
    history.instance.report_run_failed(history.run("vector_index", dg.DagsterRunStatus.STARTED))
    assert "vector_index" not in history.asked()
    if reason == "other parameters":
        history.definitions = definitions_for("i8, M 16")
    else:
        history.now += timedelta(hours=25)
    assert "vector_index" in history.asked()


def test_a_partition_that_is_loaded_again_is_a_reason(history: History) -> None:
    history.load(0, 1, 2)
    history.asked()
    history.build(0, 1, 2)
    history.asked()
    history.load(1)
    assert "vector_index" in history.asked()
    assert "vector_index" not in history.asked(), "once for one reload"
    history.build(0, 1, 2)
    history.load(1)
    assert "vector_index" in history.asked(), "and again for another, after that build"


def test_nine_reloads_with_a_tick_between_ask_for_one_build(history: History) -> None:
    history.load(*range(TOTAL))
    history.asked()
    history.build(*range(TOTAL))
    history.asked()
    asked = 0
    for shard in range(TOTAL):
        history.load(shard)
        asked += "vector_index" in history.asked()
    assert asked == 1


def test_reloads_are_waited_for_while_loads_are_under_way_and_are_then_one_build(history: History) -> None:
    history.load(*range(TOTAL))
    history.asked()
    history.build(*range(TOTAL))
    run = history.run("clickhouse_partition", dg.DagsterRunStatus.STARTED, {"dagster/partition": "1"})
    history.load(0)
    assert "vector_index" not in history.asked(), "another is still to be loaded"
    history.load(1)
    history.instance.report_run_failed(run)
    assert "vector_index" in history.asked()


@pytest.mark.parametrize("reason", ["a load", "other parameters", "a day"])
def test_a_last_milestone_that_failed_is_asked_for_again(history: History, reason: str) -> None:
    history.load(*range(TOTAL))
    assert "vector_index" in history.asked()
    run = history.run("vector_index", dg.DagsterRunStatus.STARTED)
    assert "vector_index" not in history.asked(), "it is under way"
    history.instance.report_run_failed(run)
    for _ in range(3):
        assert "vector_index" not in history.asked(), "its run failed, and nothing has changed since"
    if reason == "a load":
        history.load(4)
    elif reason == "other parameters":
        history.definitions = definitions_for("i8, M 16")
    else:
        history.now += timedelta(hours=23)
        assert "vector_index" not in history.asked()
        history.now += timedelta(hours=2)
    assert "vector_index" in history.asked()
    assert "vector_index" not in history.asked()


def test_reloads_whose_build_failed_are_asked_for_after_the_next_load(history: History) -> None:
    history.load(*range(TOTAL))
    history.asked()
    history.build(*range(TOTAL))
    history.load(3)
    assert "vector_index" in history.asked()
    history.instance.report_run_failed(history.run("vector_index", dg.DagsterRunStatus.STARTED))
    assert "vector_index" not in history.asked()
    history.load(3)
    assert "vector_index" in history.asked()


def test_the_report_waits_for_the_blocking_checks_of_the_index(history: History) -> None:
    @dg.asset_check(asset=vector_index, blocking=True)
    def every_part_is_indexed() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    history.definitions = dg.Definitions(
        [clickhouse_partition, vector_index, recall_report], asset_checks=[every_part_is_indexed]
    )
    history.load(0, 1, 2)
    history.asked()
    history.build(0, 1, 2)
    assert history.asked() == set(), "the check was not made yet"
    check = dg.AssetCheckEvaluation(INDEX, "every_part_is_indexed", passed=False, metadata={}, blocking=True)
    history.instance.report_runless_asset_event(check)
    assert history.asked() == set(), "it failed"
    check = dg.AssetCheckEvaluation(INDEX, "every_part_is_indexed", passed=True, metadata={}, blocking=True)
    history.instance.report_runless_asset_event(check)
    assert history.asked() == {"recall_report"}


def test_what_was_loaded_while_the_build_waited_in_the_queue_is_no_news_and_what_came_after_it_began_is(
    history: History,
) -> None:
    history.load(0, 1, 2)
    assert "vector_index" in history.asked()
    job = history.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={INDEX})
    run = history.instance.create_run_for_job(
        job, asset_selection=frozenset({INDEX}), status=dg.DagsterRunStatus.STARTED
    )
    history.load(3)
    seen = history.last_load()
    with_note = {COVERED_SHARDS: "0-3", LOADS_SEEN: seen}
    history.instance.report_dagster_event(materialized(run, with_note), run.run_id)
    history.instance.report_run_failed(run)
    assert "vector_index" not in history.asked(), "it covers them all"
    history.build(0, 1, 2, 3, seen=seen)
    history.load(2)
    history.build(0, 1, 2, 3, seen=seen)
    assert "vector_index" in history.asked(), "2 was loaded again after the build began"


def materialized(run: dg.DagsterRun, metadata: dict[str, Any]) -> dg.DagsterEvent:
    """The materialization event of the index, as a run's step records it."""
    return dg.DagsterEvent(
        event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=run.job_name,
        step_key="vector_index",
        event_specific_data=StepMaterializationData(dg.AssetMaterialization(INDEX, metadata=metadata)),
    )


def test_a_lost_cursor_asks_for_nothing_that_is_built(history: History) -> None:
    history.load(0, 1, 2)
    history.asked()
    history.build(0, 1, 2)
    history.asked()
    history.cursor = None
    assert "vector_index" not in history.asked()
    history.load(3, 4)
    history.cursor = None
    assert "vector_index" in history.asked()


def test_while_a_build_is_under_way_nothing_is_asked_for_and_then_it_is(history: History) -> None:
    history.load(0, 1, 2)
    history.asked()
    job = history.definitions.resolve_implicit_global_asset_job_def()
    run = history.instance.create_run_for_job(
        job.get_subset(asset_selection={INDEX}), asset_selection=frozenset({INDEX}), status=dg.DagsterRunStatus.STARTED
    )
    planned = dg.AssetMaterialization("vector_index", metadata={COVERED_SHARDS: "[0, 1, 2]"})
    history.load(3, 4)
    assert "vector_index" not in history.asked(), "a build is under way"
    history.instance.report_runless_asset_event(planned)
    history.instance.report_run_failed(run)
    assert "vector_index" in history.asked(), "the milestone that passed meanwhile is asked for after it"


def test_partitions_that_are_not_of_the_dataset_reach_no_milestone() -> None:
    """Dagster still has the partitions of a larger dataset that was loaded earlier under the same keys."""
    with dg.DagsterInstance.local_temp() as instance:
        milestones = MilestoneCondition(
            dg.AssetKey("clickhouse_partition"), first=FIRST, step=STEP, keys={0: "0", 1: "1", 2: "2"}
        )
        here = History(instance)
        here.load(0, 7, 8)
        assert milestones.wanted(instance, INDEX, milestones.loaded(instance)) is None
        here.load(1, 2)
        wanted = milestones.wanted(instance, INDEX, milestones.loaded(instance))
        assert wanted is not None
        assert wanted.reached == 3
        here.build(0, 7, 8)
        assert milestones.wanted(instance, INDEX, milestones.loaded(instance)) == wanted, "one of three is covered"


def test_the_label_in_the_automation_view_says_when() -> None:
    condition = index_condition(
        MilestoneCondition(dg.AssetKey("clickhouse_partition"), first=FIRST, step=STEP, keys=KEYS)
    )
    assert condition.get_label() == "3 partitions loaded, then every 2 more, and the last; or loaded again"
