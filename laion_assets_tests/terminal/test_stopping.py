"""Tests that Ctrl-C and SIGTERM end a command: it begins no other run, and leaves none in the queue."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import load_settings
from laion_assets.shard.store import ShardStore
from laion_assets.terminal.instance import make_instance
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

    def start(self, *arguments: str) -> ForkedProcess:
        """Starts the command."""
        return ForkedProcess("-m", "laion_assets.cli", *arguments, cwd=self.path, env=self.environment)

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


def test_bring_up_to_date_waits_for_another_load_of_the_shard(folder: Folder) -> None:
    with ShardStore.of(folder.settings).at_work_on(0, "load"), folder.start("bring-up-to-date", "0") as process:
        assert any("shard 0, load: another run is working on it" in line for line in process.stdout)
        assert folder.runs() == []
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    assert process.wait() == 130
    assert folder.runs() == []
