"""Tests of `load` with the daemon's queue: it queues each run once, follows it, and takes it out when it is stopped.

The tests act as the daemon: they write its heartbeat, and end or delete runs. So no run leaves the queue too early.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat
from rich.console import Console

from laion_assets.assets.same_settings import SETTINGS_TAG, require_same_settings, settings_digest
from laion_assets.dagster_internals.names import QUEUE_DAEMON
from laion_assets.settings import Settings, load_settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.submitted import follow
from laion_assets_tests.forked.process import ForkedProcess

SHARDS = 400


class Queue:
    """A Dagster instance in files whose daemon seems to run, and a dataset of many shards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "source").mkdir()
        (path / "many.toml").write_text(
            f'name = "many"\nshards = {SHARDS}\ndimension = 512\nclip_model = "sample"\n'
            f'[[sources]]\nurl = "{path}/source"\n'
        )
        (path / "home").mkdir()
        (path / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self.instance = dg.DagsterInstance.from_config(str(path / "home"))
        self.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() + 600, QUEUE_DAEMON, "the test", []))

    def load(self, shards: str, command: str = "load") -> ForkedProcess:
        """Starts `laion-assets load`, or another command for shards."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LAION_")} | {
            "COLUMNS": "200",
            "DAGSTER_HOME": str(self.path / "home"),
            "LAION_DATASET": str(self.path / "many.toml"),
            "LAION_DATA_DIR": str(self.path / "data"),
        }
        return ForkedProcess("-m", "laion_assets.cli", command, shards, cwd=self.path, env=environment)

    def backfills_tags(self) -> list[dict[str, str]]:
        """The tags of each backfill, which its runs get."""
        return [dict(backfill.tags) for backfill in self.instance.get_backfills()]

    def states(self) -> Counter[str]:
        """Returns the number of runs in each state."""
        return Counter(run.status.value for run in self.instance.get_runs())

    def wait_for_runs(self, count: int, process: ForkedProcess) -> None:
        """Waits until there are this many runs."""
        deadline = time.monotonic() + 120
        while self.states().total() < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    made = Queue(tmp_path)
    yield made
    made.instance.dispose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_submission_leaves_no_run_in_the_queue(queue: Queue, number: signal.Signals) -> None:
    with queue.load(f"0-{SHARDS - 1}") as process:
        queue.wait_for_runs(3, process)
        os.kill(process.pid, number)
        said, complained = process.communicate(timeout=120)
    assert process.wait() == 130, (said, complained)
    assert "the same command continues from there" in said
    states = queue.states()
    assert set(states) == {"CANCELED"}, states
    assert states.total() < SHARDS


def test_a_second_load_follows_the_runs_of_the_first_and_a_deleted_run_is_told(queue: Queue) -> None:
    with queue.load("0-1") as first:
        queue.wait_for_runs(2, first)
        with queue.load("0-2") as second:
            queue.wait_for_runs(3, second)
            os.kill(second.pid, signal.SIGINT)
            said, complained = second.communicate(timeout=120)
        assert second.wait() == 130, (said, complained)
        assert "2 shards (0-1)" in said
        assert queue.states() == {"QUEUED": 2, "CANCELED": 1}, "it ended its own run, and not those of the first"
        for run in queue.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
            queue.instance.delete_run(run.run_id)
        said, complained = first.communicate(timeout=120)
    assert first.wait() == 1, (said, complained)
    assert said.count("was deleted before it had ended") == 2, said
    assert "no Dagster daemon" not in said
    assert queue.states().total() == 1, "no shard was loaded in the process"


def test_of_runs_that_wait_nothing_but_their_ids_is_read(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(dataset_name=str(queue.path / "many.toml"), data_dir=queue.path / "data")
    runs = {shard: dg.DagsterRun("load_shards").run_id for shard in range(1200)}
    for run_id in runs.values():
        queue.instance.add_run(dg.DagsterRun("load_shards", run_id=run_id))
    asked: list[str] = []
    read = queue.instance.get_run_records

    def counted(filters: dg.RunsFilter) -> Sequence[dg.RunRecord]:
        asked.extend(filters.run_ids or ["all"])
        return read(filters)

    monkeypatch.setattr(queue.instance, "get_run_records", counted)
    ended = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "load_shards")
    ending = threading.Timer(0.5, lambda: queue.instance.report_dagster_event(ended, runs[1100]))
    ending.start()
    with ShardBars(Console(quiet=True)) as bars:
        shard, run, _ = next(follow(settings, queue.instance, runs, bars, ours=()))
    ending.join()
    assert run is not None
    assert (shard, run.run_id, asked) == (1100, runs[1100], [runs[1100]])


def test_an_update_that_the_daemon_makes_is_refused_by_a_code_location_with_other_settings(queue: Queue) -> None:
    process = queue.load("0", "bring-up-to-date")
    said, error = process.communicate()
    assert process.returncode == 0, error
    assert "asked for in backfill" in said
    (tags,) = queue.backfills_tags()
    mine = load_settings(dataset_name=str(queue.path / "many.toml"), data_dir=queue.path / "data")
    run = dg.DagsterRun("__ASSET_JOB", tags=tags)
    require_same_settings(mine, run)
    with pytest.raises(dg.Failure, match="have different settings"):
        require_same_settings(mine.model_copy(update={"table": "another"}), run)


def test_a_code_location_with_an_older_description_or_other_parameters_is_another(tmp_path: Path) -> None:
    described = tmp_path / "mine.toml"
    text = 'name = "mine"\nshards = 2\ndimension = 64\n[[sources]]\nurl = "/nowhere"\n'
    described.write_text(text + '[columns]\ncaption = "TEXT"\n')

    def mine(**fields: object) -> Settings:
        return load_settings(dataset_name=str(described), data_dir=tmp_path, **fields)

    run = dg.DagsterRun("load_shards", tags={SETTINGS_TAG: settings_digest(mine())})
    require_same_settings(mine(), run)
    require_same_settings(mine(load_shards=3), run)
    others: list[dict[str, object]] = [
        {"hnsw_m": 8},
        {"recall_target": 0.5},
        {"recall_targets": {"text_to_image": 0.5}},
        {"index": "cells"},
    ]
    others += [{"extra_columns": ("key",)}, {"vector_codec": "ZSTD(3)"}]
    for other in others:
        with pytest.raises(dg.Failure, match="have different settings"):
            require_same_settings(mine(**other), run)
    described.write_text(text + '[columns]\ncaption = "ALT_TEXT"\n')
    with pytest.raises(dg.Failure, match="the dataset's TOML file or its lock file has changed"):
        require_same_settings(mine(), run)
