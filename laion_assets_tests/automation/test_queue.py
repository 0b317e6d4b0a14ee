"""Tests the order in which queued runs start, the tags that set this order, and the limits of concurrent runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from laion_assets.automation.queue import BULK, INDEX, LANE_TAG, PERSON, REPORT, PriorityRunCoordinator, queue_tags
from laion_assets.definitions import build_definitions
from laion_assets.execution.launcher import WatchedRunLauncher
from laion_assets.health.keys import CHAIN
from laion_assets.settings import load_settings
from laion_assets.terminal.runs import make_run
from laion_assets_tests.conftest import REPOSITORY

PRIORITY = "dagster/priority"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the project's dagster.yaml."""
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(load_settings(dataset_name="sample"))


def queued(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    *assets: str,
    shard: int | None = None,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    """Submits a run of assets as the UI does, and returns the queued run."""
    job = definitions.get_repository_def().get_implicit_global_asset_job_def()
    run = make_run(job, instance, assets=assets, key=None if shard is None else str(shard), tags=tags)
    return instance.submit_run(run.run_id, workspace=None)  # type: ignore[arg-type]  # a queue needs none


def test_the_report_goes_first_then_the_index_then_a_person_then_bulk(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    bulk = [queued(instance, definitions, *CHAIN, shard=shard, tags={"dagster/backfill": "b"}) for shard in range(3)]
    person = queued(instance, definitions, *CHAIN, shard=3)
    index = queued(instance, definitions, "vector_index")
    cells = queued(instance, definitions, "vector_cells")
    report = queued(instance, definitions, "load_report")
    shown = [(run.tags[LANE_TAG], run.tags[PRIORITY]) for run in (*bulk, person, index, cells, report)]
    assert shown == [
        *[("load", str(BULK))] * 3,
        ("load", str(PERSON)),
        *[("index", str(INDEX))] * 2,
        ("report", str(REPORT)),
    ]
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        order = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)
    assert [run.run_id for run in order] == [run.run_id for run in (report, index, person, bulk[0])], (
        "two loads at a time, and neither the index nor the report waits for them"
    )


def test_loads_that_wait_for_the_pool_hold_no_place_of_a_report_or_an_index(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    instance.event_log_storage.initialize_concurrency_limit_to_default("clickhouse")
    for shard in range(2):
        run = queued(instance, definitions, *CHAIN, shard=shard)
        instance.report_dagster_event(
            dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, run.job_name), run.run_id
        )
        instance.event_log_storage.claim_concurrency_slot("clickhouse", run.run_id, "clickhouse_partition")
    waiting = queued(instance, definitions, *CHAIN, shard=2)
    index = queued(instance, definitions, "vector_index")
    report = queued(instance, definitions, "load_report")
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        order = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)
    started = [run.run_id for run in order]
    assert started == [report.run_id, index.run_id]
    assert waiting.run_id not in started


def test_audits_that_wait_for_the_pool_hold_no_place_of_a_report_or_an_index(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    audits = definitions.resolve_job_def("audit_partitions")
    for shard in range(4):
        run = make_run(audits, instance, key=str(shard))
        instance.submit_run(run.run_id, workspace=None)  # type: ignore[arg-type]  # a queue needs none
    index = queued(instance, definitions, "vector_index")
    report = queued(instance, definitions, "load_report")
    with QueuedRunCoordinatorDaemon(interval_seconds=1) as daemon:
        order = daemon._get_runs_to_dequeue(instance, instance.get_concurrency_config(), None)
    assert [run.run_id for run in order[:2]] == [report.run_id, index.run_id]
    assert [run.job_name for run in order[2:]] == ["audit_partitions"] * 2, "as many as loads"


def test_what_somebody_set_stays_and_other_peoples_runs_get_no_tags(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    urgent = queued(instance, definitions, *CHAIN, shard=0, tags={PRIORITY: "99"})
    assert (urgent.tags[PRIORITY], urgent.tags[LANE_TAG]) == ("99", "load")

    @dg.asset
    def theirs() -> None: ...

    other = make_run(dg.Definitions([theirs]).get_repository_def().get_implicit_global_asset_job_def(), instance)
    assert queue_tags(other) == {}


def test_a_job_of_cells_goes_with_the_index(instance: dg.DagsterInstance) -> None:
    cells = build_definitions(load_settings(dataset_name="sample", index="cells"))
    run = make_run(cells.resolve_job_def("build_index"), instance)
    assert (run.tags[LANE_TAG], run.tags[PRIORITY]) == ("index", str(INDEX))


def test_a_job_has_the_lane_of_its_assets_also_under_dagsters_own_queue(
    instance: dg.DagsterInstance, definitions: dg.Definitions
) -> None:
    for name, lane, priority in (
        ("load_shards", "load", None),
        ("build_index", "index", str(INDEX)),
        ("report_health", "report", str(REPORT)),
        ("audit_partitions", "load", None),
    ):
        run = make_run(definitions.resolve_job_def(name), instance, key="0" if lane == "load" else None)
        assert (run.tags[LANE_TAG], run.tags.get(PRIORITY)) == (lane, priority)


@pytest.mark.parametrize("name", ["dagster.yaml", "deploy/dagster.yaml"])
def test_every_lane_has_a_limit_and_all_together_fit(name: str) -> None:
    configuration = yaml.safe_load((REPOSITORY / name).read_text())
    runs = configuration["concurrency"]["runs"]
    limits = {limit["value"]: limit["limit"] for limit in runs["tag_concurrency_limits"] if limit["key"] == LANE_TAG}
    assert set(limits) == {"load", "index", "report"}
    assert sum(limits.values()) < runs["max_concurrent_runs"], "one place is for all that has no lane"
    assert configuration["run_coordinator"]["class"] == PriorityRunCoordinator.__name__
    assert configuration["run_coordinator"]["module"] == PriorityRunCoordinator.__module__


@pytest.mark.parametrize("name", ["dagster.yaml", "deploy/dagster.yaml"])
def test_run_monitoring_learns_whether_the_process_of_a_run_is_gone(name: str) -> None:
    configuration = yaml.safe_load((REPOSITORY / name).read_text())
    assert configuration["run_monitoring"]["enabled"]
    assert configuration["run_launcher"] == {
        "module": WatchedRunLauncher.__module__,
        "class": WatchedRunLauncher.__name__,
    }


def test_storage_follows_dagster_home_wherever_a_process_was_started(tmp_path: Path) -> None:
    configuration = yaml.safe_load((REPOSITORY / "dagster.yaml").read_text())
    assert not {"storage", "local_artifact_storage", "compute_logs"} & set(configuration)
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            instance.report_runless_asset_event(dg.AssetMaterialization("load_report"))
    assert list(elsewhere.iterdir()) == []
    assert {path.name for path in home.iterdir()} >= {"history", "dagster.yaml"}
