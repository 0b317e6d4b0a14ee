"""Tests that Ctrl-C and SIGTERM end a command: it begins no other run, and leaves none in the queue."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.execution.termination import PROCESS_TAG
from laion_assets.health.facts import read_facts
from laion_assets.health.history import read_histories
from laion_assets.machine import ProcessIdentity
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import load_settings
from laion_assets.shard.store import ShardStore
from laion_assets.terminal.instance import make_instance
from laion_assets_tests.automation.services import wait_for
from laion_assets_tests.endpoint.process import ServerProcess
from laion_assets_tests.forked.process import ForkedProcess

SHARDS = 4


class Folder:
    """Sample shards, and a Dagster instance without a daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for shard in range(SHARDS):
            write_sample_shard(path / "source", shard, 60)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", "restored afterwards")
            make_instance(path / "home")
        # Opened before any command starts: two processes that create its tables at the same time disturb each other.
        self.instance = dg.DagsterInstance.from_config(str(path / "home"))
        self.settings = load_settings(dataset_name="sample", data_dir=path / "data", source=(str(path / "source"),))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("LAION_")} | {
            "COLUMNS": "200",
            "DAGSTER_HOME": str(path / "home"),
            "LAION_DATASET": "sample",
            "LAION_SOURCE": str(path / "source"),
            "LAION_DATA_DIR": str(path / "data"),
        }

    def start(self, *arguments: str, **environment: str) -> ForkedProcess:
        """Starts the command."""
        env = self.environment | environment
        return ForkedProcess("-m", "laion_assets.cli", *arguments, cwd=self.path, env=env)

    def runs(self) -> list[dg.DagsterRun]:
        """Returns all runs of the instance, the newest first."""
        return list(self.instance.get_runs())


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.instance.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bring_up_to_date_ends_with_the_shard_under_way(folder: Folder, number: signal.Signals) -> None:
    # The test holds the first shard's lock, so the signal arrives while that shard's run is in progress.
    with (
        ShardStore.of(folder.settings).at_work_on(0, "files"),
        folder.start("bring-up-to-date", f"0-{SHARDS - 1}") as process,
    ):
        deadline = time.monotonic() + 120
        while not any(run.status == dg.DagsterRunStatus.STARTED for run in folder.runs()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1.0)
        os.kill(process.pid, number)
        said, complained = process.communicate(timeout=120)
    assert process.wait() == 130, (said, complained)
    assert "the same command continues from there" in said
    assert [(run.tags["dagster/partition"], run.status.value) for run in folder.runs()] == [("0", "CANCELED")]


def test_a_load_that_was_stopped_asks_for_no_other_shard(folder: Folder) -> None:
    with ShardStore.of(folder.settings).at_work_on(0, "files"), folder.start("load", f"0-{SHARDS - 1}") as process:
        wait_for(lambda: runs_under_way(folder, 1), seconds=120, what="the first run")
        assert asked_for(folder) == {"0", "1", "2", "3"}
        os.kill(process.pid, signal.SIGINT)
        said, complained = process.communicate(timeout=120)
    assert process.wait() == 130, (said, complained)
    assert "shards that were not begun are no longer asked for" in said
    assert asked_for(folder) == set()


def asked_for(folder: Folder) -> set[str]:
    histories = read_histories(folder.instance, folder.settings)
    return read_facts(folder.instance, folder.settings, histories).asked_for


def test_bring_up_to_date_waits_for_another_load_of_the_shard(folder: Folder) -> None:
    with ShardStore.of(folder.settings).at_work_on(0, "load"), folder.start("bring-up-to-date", "0") as process:
        assert any("shard 0, load: another run is working on it" in line for line in process.stdout)
        assert folder.runs() == []
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    assert process.wait() == 130
    assert folder.runs() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_load_in_several_processes_ends_with_all_of_them(
    folder: Folder, clickhouse_server: ServerProcess, number: signal.Signals
) -> None:
    # Two shards' locks are held here, so both processes wait in a run when the signal reaches the command alone.
    store = ShardStore.of(folder.settings)
    with store.at_work_on(0, "files"), store.at_work_on(1, "files"):
        process = folder.start("load", "0-3", "--parallel", "2", LAION_CLICKHOUSE=clickhouse_server.url())
        runs = wait_for(lambda: runs_under_way(folder, 2), seconds=120, what="a run of each process")
        workers = [ProcessIdentity.parse(run.tags[PROCESS_TAG]) for run in runs]
        os.kill(process.pid, number)
        said, complained = process.communicate(timeout=120)
        gone = [worker is not None and worker.is_gone() for worker in workers]
    assert gone == [True, True]
    assert process.wait() == 130, (said, complained)
    assert "the same command continues from there" in said
    assert {(run.tags["dagster/partition"], run.status.value) for run in folder.runs()} == {
        ("0", "CANCELED"),
        ("1", "CANCELED"),
    }


def runs_under_way(folder: Folder, count: int) -> list[dg.DagsterRun] | None:
    """The runs that have begun a step, if there are so many."""
    begun = [run for run in folder.runs() if folder.instance.get_run_stats(run.run_id).start_time is not None]
    kind = {dg.DagsterEventType.STEP_START}
    at_work = [run for run in begun if folder.instance.all_logs(run.run_id, of_type=kind)]
    return at_work if len(at_work) == count else None


def test_a_calibration_ends_with_its_process(folder: Folder) -> None:
    process = folder.start("plan", "0", "--bandwidth", "100")
    wait_for(lambda: (folder.path / "data" / ".calibration").exists() or None, seconds=120, what="the calibration")
    begun = wait_for(lambda: measuring(process.pid) or None, seconds=60, what="its process")
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.wait() == 130
    assert [number for number in begun if Path(f"/proc/{number}").exists()] == []
    assert not (folder.path / "data" / ".calibration").exists()


def measuring(command: int) -> list[str]:
    """The processes that a command has started for its measurements."""
    children = Path(f"/proc/{command}/task/{command}/children").read_text().split()
    return [number for number in children if "spawn_main" in Path(f"/proc/{number}/cmdline").read_text()]
