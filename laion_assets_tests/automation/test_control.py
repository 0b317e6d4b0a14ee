"""Tests how a person controls loads in real Dagster: order in the queue, *Terminate*, cancelled backfills, killed
processes, a restarted webserver, reloaded code, and the command `laion-assets` with a running daemon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from laion_assets.execution.worker import Signature
from laion_assets.health.history import COVERED_SHARDS
from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.embedded import holder_of
from laion_assets.table.schema import partitions
from laion_assets.terminal.submitted import daemon_is_live
from laion_assets.words import shards_of
from laion_assets_tests.automation.services import PROJECT, Services, wait_for
from laion_assets_tests.torture.termination import limit_seconds

SHARDS = 18
BACKFILL = [str(shard) for shard in range(14)]
ALONE, HANDED, INTERRUPTED = 14, 15, (16, 17)
"""Shards of the tests that launch no backfill."""

ROWS = 150
PATIENCE = 900.0
"""Longest wait in seconds. A busy machine needs ten seconds for a tiny shard."""


class Load:
    """Tiny shards, their settings, and the Dagster services that load them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for shard in range(SHARDS):
            write_sample_shard(folder / "data" / "sample", shard, ROWS)
        (folder / "many.toml").write_text(
            f'name = "many"\nshards = {SHARDS}\ndimension = 512\nclip_model = "sample"\n'
            '[[sources]]\nurl = "{data_dir}/sample"\n'
        )
        self.environment = {
            "LAION_DATASET": str(folder / "many.toml"),
            "LAION_DATA_DIR": str(folder / "data"),
            "LAION_INDEX_FIRST": "5",
            "LAION_INDEX_STEP": "5",
            "LAION_RECALL_QUERIES": "2",
            "LAION_HNSW_M": "8",
            "LAION_HNSW_EF_CONSTRUCTION": "32",
            "LAION_TUNING_ROWS": "1000",
        }
        self.settings: Settings = load_settings(dataset_name=str(folder / "many.toml"), data_dir=folder / "data")
        self.services = Services(folder / "home", self.environment)

    def has_daemon(self) -> bool:
        """Whether a daemon is alive and takes runs from the queue."""
        instance = self.services.instance
        return daemon_is_live(instance)

    def loaded(self) -> int:
        """The number of partitions that Dagster has recorded as materialized."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        instance = self.services.instance
        return len(instance.get_latest_storage_id_by_partition(dg.AssetKey("clickhouse_partition"), kind))

    def launch(self, *assets: str, shard: int | None = None) -> str:
        """Sends the request of the button *Materialize* and returns the run's id."""
        tags = [] if shard is None else [{"key": "dagster/partition", "value": str(shard)}]
        selector = {
            "repositoryLocationName": "laion_assets",
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [asset]} for asset in assets],
        }
        launched = self.services.query(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename ... on LaunchRunSuccess "
            "{ run { runId } } ... on PythonError { message } } }",
            p={"selector": selector, "executionMetadata": {"tags": tags}},
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def run(self, run_id: str) -> dg.DagsterRun:
        """The run as Dagster has it now."""
        instance = self.services.instance
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def ended(self, run_id: str) -> dg.DagsterRunStatus | None:
        """The final status of a run, or None while the run is not finished."""
        run = self.run(run_id)
        return run.status if run.is_finished else None

    def process_of(self, run_id: str) -> int | None:
        """The id of the process that executes a run's steps, or None before a step starts."""
        instance = self.services.instance
        logs = instance.all_logs(run_id)
        begun = any(entry.dagster_event and entry.dagster_event.is_step_start for entry in logs)
        pids = [found[1] for entry in logs if (found := re.search(r"steps in process \(pid: (\d+)\)", entry.message))]
        return int(pids[0]) if begun and pids else None

    def holder(self) -> str | None:
        """The process that holds the embedded engine, or None."""
        return holder_of(self.folder / "data" / "clickhouse")


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    made = Load(tmp_path_factory.mktemp("many"))
    try:
        made.services.start_webserver()
        made.services.start_daemon()
        wait_for(lambda: made.has_daemon() or None, seconds=PATIENCE, what="the daemon's first heartbeat")
        yield made
    finally:
        made.services.stop()


def command(load: Load, *arguments: str) -> subprocess.Popen[str]:
    """Starts `laion-assets` in the environment of the services."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "laion_assets.cli", *arguments],
        cwd=PROJECT,
        env={
            **os.environ,
            **load.environment,
            "DAGSTER_HOME": str(load.folder / "home"),
            "COLUMNS": "200",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_command_gives_its_shards_to_the_daemon_and_the_ui_can_execute_them_again(load: Load) -> None:
    with command(load, "load", str(HANDED)) as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "Dagster's daemon loads the shards" in said
    (run,) = runs_of_shard(load, HANDED)
    assert run.remote_job_origin is not None and run.remote_job_origin.location_name == "laion_assets"
    again = load.services.query(
        "mutation($p: ReexecutionParams!) { launchRunReexecution(reexecutionParams: $p) { __typename "
        "... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }",
        p={"parentRunId": run.run_id, "strategy": "ALL_STEPS"},
    )["launchRunReexecution"]
    assert again["__typename"] == "LaunchRunSuccess", again
    run_id = str(again["run"]["runId"])
    assert wait_for(lambda: load.ended(run_id), seconds=PATIENCE, what="its end") == dg.DagsterRunStatus.SUCCESS


def test_ctrl_c_of_the_command_ends_the_runs_that_it_gave_to_the_daemon(load: Load) -> None:
    with command(load, "load", "{}-{}".format(*INTERRUPTED)) as process:
        assert process.stdout is not None
        assert any("started" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command continues from there" in said
    runs = [*runs_of_shard(load, INTERRUPTED[0]), *runs_of_shard(load, INTERRUPTED[1])]
    assert len(runs) == 2
    # On a busy machine the command exits before the last process does.
    wait_for(lambda: all(load.ended(run.run_id) for run in runs) or None, seconds=60, what="the end of both runs")
    runs = [load.run(run.run_id) for run in runs]
    assert dg.DagsterRunStatus.CANCELED in {run.status for run in runs}


def runs_of_shard(load: Load, shard: int) -> list[dg.DagsterRun]:
    """All runs of a shard's partition."""
    instance = load.services.instance
    return list(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": str(shard)})))


def test_terminate_ends_run_and_process_and_frees_the_engine(load: Load) -> None:
    run_id = load.launch("hnsw_tuning")
    process = wait_for(lambda: load.process_of(run_id), seconds=PATIENCE, what="its process")
    wait_for(lambda: (load.holder() or "").endswith(str(process)) or None, seconds=PATIENCE, what="the engine in use")
    asked: dict[str, Any] = load.services.query(
        "mutation($r: String!) { terminateRun(runId: $r) { __typename ... on TerminateRunFailure { message } } }",
        r=run_id,
    )["terminateRun"]
    started = time.monotonic()
    assert asked["__typename"] == "TerminateRunSuccess", asked
    status = wait_for(lambda: load.ended(run_id), seconds=60, what="its end")
    wait_for(lambda: None if alive(process) else True, seconds=60, what="the end of its process")
    seconds = time.monotonic() - started
    assert status == dg.DagsterRunStatus.CANCELED
    assert load.holder() is None or not str(load.holder()).endswith(str(process))
    assert seconds <= limit_seconds(), f"it took {seconds:.1f} s"
    instance = load.services.instance
    assert instance.all_logs(run_id, of_type={dg.DagsterEventType.STEP_UP_FOR_RETRY}) == []


def alive(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_run_is_failed_and_the_pool_is_free_for_the_next(load: Load) -> None:
    run_id = load.launch("hnsw_tuning")
    process = wait_for(lambda: load.process_of(run_id), seconds=PATIENCE, what="its process")
    os.kill(process, signal.SIGKILL)
    assert wait_for(lambda: load.ended(run_id), seconds=120, what="its end") == dg.DagsterRunStatus.FAILURE
    following = load.launch(*CHAIN, shard=ALONE)
    status = wait_for(lambda: load.ended(following), seconds=PATIENCE, what="the next load")
    assert status == dg.DagsterRunStatus.SUCCESS


def test_a_run_that_was_killed_with_its_code_server_is_failed_and_the_pool_is_free(load: Load) -> None:
    """This is what a restart of the host leaves: nothing that had started the process can tell of its end."""
    store = load.services.instance.event_log_storage
    store.initialize_concurrency_limit_to_default("clickhouse")
    wait_for(lambda: not in_pool(load) or None, seconds=PATIENCE, what="the free pool")
    assert store.claim_concurrency_slot("clickhouse", "another run", "its step").is_claimed
    run_id = load.launch("hnsw_tuning")
    wait_for(lambda: run_id in in_pool(load) or None, seconds=PATIENCE, what="a run that waits for the pool")
    signature = Signature.of(load.run(run_id))
    assert signature is not None
    process = signature.process.process
    server = parent_of(process)
    load.services.kill("daemon")
    os.kill(server, signal.SIGKILL)
    os.kill(process, signal.SIGKILL)
    assert load.run(run_id).status == dg.DagsterRunStatus.STARTED
    store.free_concurrency_slots_for_run("another run")
    load.services.start_daemon()
    assert wait_for(lambda: load.ended(run_id), seconds=120, what="its end") == dg.DagsterRunStatus.FAILURE
    wait_for(lambda: not in_pool(load) or None, seconds=120, what="the free pool")
    report = load.launch("load_report")
    assert wait_for(lambda: load.ended(report), seconds=PATIENCE, what="the report") == dg.DagsterRunStatus.SUCCESS


def in_pool(load: Load) -> set[str]:
    """The runs that have a place in the pool, or wait for one."""
    info = load.services.instance.event_log_storage.get_concurrency_info("clickhouse")
    return {step.run_id for step in info.pending_steps} | {slot.run_id for slot in info.claimed_slots}


def parent_of(process: int) -> int:
    """The process that started a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_milestones_and_the_report_pass_a_backfill_and_it_survives_reloads_and_restarts(load: Load) -> None:
    already = load.loaded()
    backfill = load.services.launch_backfill(list(CHAIN), BACKFILL)
    wait_for(lambda: load.loaded() >= already + 2 or None, seconds=PATIENCE, what="two loaded shards")
    reload_code(load)
    launched, before = time.time(), load.loaded()
    report = load.launch("load_report")
    assert wait_for(lambda: load.ended(report), seconds=PATIENCE, what="the report") == dg.DagsterRunStatus.SUCCESS
    instance = load.services.instance
    record = instance.get_run_record_by_id(report)
    assert record is not None and record.start_time is not None
    waited = record.start_time - launched
    took = shard_seconds(instance)
    assert load.loaded() - before <= 2, "it passed the shards that were queued before it"
    # The report waits for the shard that is being loaded, and for the start of its process.
    assert waited <= 2 * took, f"it waited {waited:.1f} s, a shard takes {took:.1f} s"
    load.services.kill("webserver")
    load.services.start_webserver()
    status = wait_for(lambda: end_of(load, backfill), seconds=PATIENCE, what="the end of the backfill")
    assert status == "COMPLETED_SUCCESS"
    wait_for(lambda: len(builds(load)) >= 2 or None, seconds=PATIENCE, what="two builds")
    covered = builds(load)
    assert 5 <= covered[0] < 10, f"the milestone at 5 was built over {covered[0]} partitions"
    assert any(10 <= count < 15 for count in covered), f"builds over {covered} partitions"
    # Loads that wait for the engine get it before the checks of the build do.
    measured = wait_for(lambda: reports(load) or None, seconds=PATIENCE, what="the recall of a build")
    for metadata in measured:
        assert metadata["partitions"] in builds(load)
        assert metadata["rows"] == metadata["partitions"] * ROWS
    first = build_runs(load)[0]
    assert load.ended(first) == dg.DagsterRunStatus.SUCCESS
    assert checks_of(load, first) == {"every_part_is_indexed": True, "index_is_used": True}
    with connect(load.settings, wait_seconds=60) as db:
        rows = {state.shard: state.rows for state in partitions(db)}
    assert {shard: rows.get(shard) for shard in map(int, BACKFILL)} == dict.fromkeys(map(int, BACKFILL), ROWS)


def reload_code(load: Load) -> None:
    """Reloads the code location as the button *Reload* does."""
    data = load.services.query(
        'mutation { reloadRepositoryLocation(repositoryLocationName: "laion_assets") { __typename '
        "... on WorkspaceLocationEntry { loadStatus } } }"
    )["reloadRepositoryLocation"]
    assert (data["__typename"], data["loadStatus"]) == ("WorkspaceLocationEntry", "LOADED")


def end_of(load: Load, backfill: str) -> str | None:
    """The final status of a backfill, or None while the backfill is not finished."""
    status = load.services.backfill_status(backfill)
    return None if status in ("REQUESTED", "CANCELING") else status


def shard_seconds(instance: dg.DagsterInstance) -> float:
    """Duration of the longest successful run of a shard, in seconds."""
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]))
    shards = [record for record in records if "dagster/partition" in record.dagster_run.tags]
    return max((record.end_time or 0.0) - (record.start_time or 0.0) for record in shards)


def builds(load: Load) -> list[int]:
    """The number of partitions that each build of the index covered, oldest build first."""
    instance = load.services.instance
    records = instance.fetch_materializations(dg.AssetKey("vector_index"), limit=50).records
    made = [record.asset_materialization for record in records]
    return [len(shards_of(str(one.metadata[COVERED_SHARDS].value))) for one in reversed(made) if one is not None]


def build_runs(load: Load) -> list[str]:
    """The runs that built the index, oldest first."""
    instance = load.services.instance
    records = instance.fetch_materializations(dg.AssetKey("vector_index"), limit=50).records
    return [record.run_id for record in reversed(records)]


def reports(load: Load) -> list[dict[str, Any]]:
    """The metadata of each recall report."""
    instance = load.services.instance
    records = instance.fetch_materializations(dg.AssetKey("recall_report"), limit=50).records
    made = [record.asset_materialization for record in records]
    return [{name: one.value for name, one in event.metadata.items()} for event in made if event is not None]


def checks_of(load: Load, run_id: str) -> dict[str, bool]:
    """Whether each check of a run passed."""
    instance = load.services.instance
    logs = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    events = [entry.dagster_event for entry in logs if entry.dagster_event is not None]
    found = [event.asset_check_evaluation_data for event in events]
    return {check.check_name: check.passed for check in found}


def test_a_cancelled_backfill_leaves_no_run_and_what_was_loaded(load: Load) -> None:
    before = load.loaded()
    backfill = load.services.launch_backfill(list(CHAIN), BACKFILL)
    wait_for(lambda: runs_of(load, backfill) or None, seconds=PATIENCE, what="its first runs")
    load.services.query(
        "mutation($b: String!) { cancelPartitionBackfill(backfillId: $b) { __typename } }",
        b=backfill,
    )
    assert wait_for(lambda: end_of(load, backfill), seconds=PATIENCE, what="its end") == "CANCELED"
    assert {run.status for run in runs_of(load, backfill)} <= {
        dg.DagsterRunStatus.CANCELED,
        dg.DagsterRunStatus.SUCCESS,
    }
    assert load.loaded() == before


def runs_of(load: Load, backfill: str) -> list[dg.DagsterRun]:
    """The runs that a backfill made."""
    instance = load.services.instance
    return list(instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": backfill})))
