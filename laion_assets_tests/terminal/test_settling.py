"""Tests of ending the runs of dead commands: only unfinished runs that no process continues are ended."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.machine import ProcessIdentity
from laion_assets.settings import load_settings
from laion_assets.terminal import instance as instance_module
from laion_assets.terminal.instance import SUBMITTER_TAG, settle_dead_runs, settling_dead_runs
from laion_assets.terminal.runs import make_run
from laion_assets.terminal.shard_run import shard_job
from laion_assets_tests.forked.process import run_forked
from laion_assets_tests.terminal.test_instance import active_run, begun


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance in files, like a user's."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A running process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity(process: subprocess.Popen[bytes]) -> str:
    return str(replace(ProcessIdentity.here(), process=process.pid, started=begun(process.pid)))


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@contextlib.contextmanager
def ending_after_the_list(
    instance: dg.DagsterInstance, process: subprocess.Popen[bytes], last: Callable[[], object]
) -> Iterator[None]:
    """In the block, as soon as the runs have been listed, `last` is called and the process is killed."""
    listed = instance.get_runs

    def list_then_end(filters: dg.RunsFilter | None = None) -> Sequence[dg.DagsterRun]:
        found = listed(filters)
        last()
        process.kill()
        process.wait()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance, "get_runs", list_then_end)
        yield


def test_a_run_that_ends_well_while_the_runs_are_listed_is_not_failed(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes]
) -> None:
    run_id = active_run(instance, identity(sleeper))
    ended = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "load_shards")
    with ending_after_the_list(instance, sleeper, lambda: instance.report_dagster_event(ended, run_id)):
        assert settle_dead_runs(instance) == []
    assert status_of(instance, run_id) == dg.DagsterRunStatus.SUCCESS


def test_a_run_that_is_queued_while_the_runs_are_listed_stays_in_the_queue(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, source=(str(tmp_path),))
    run_id = make_run(
        shard_job(settings, None), instance, assets=CHAIN, key="0", tags={SUBMITTER_TAG: identity(sleeper)}
    ).run_id
    assert settle_dead_runs(instance) == [], "its process is about to queue it"
    # A queue needs no workspace.
    with ending_after_the_list(instance, sleeper, lambda: instance.submit_run(run_id, None)):  # type: ignore[arg-type]
        assert settle_dead_runs(instance) == []
    assert status_of(instance, run_id) == dg.DagsterRunStatus.QUEUED


def test_runs_in_the_queue_of_the_daemon_are_not_read(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = shard_job(load_settings(dataset_name="sample", data_dir=tmp_path, source=(str(tmp_path),)), None)
    queued, created = (make_run(job, instance, assets=CHAIN, key=key).run_id for key in ("0", "1"))
    instance.submit_run(queued, None)  # type: ignore[arg-type]  # a queue needs no workspace
    read: list[str] = []
    runs_of = instance.get_runs

    def counted(filters: dg.RunsFilter | None = None) -> Sequence[dg.DagsterRun]:
        found = runs_of(filters)
        read.extend(run.run_id for run in found)
        return found

    monkeypatch.setattr(instance, "get_runs", counted)
    settle_dead_runs(instance)
    assert read == [created]


KILLED_BEFORE_THE_QUEUE = """
import os, signal, sys
from pathlib import Path
import dagster as dg
from laion_assets.settings import load_settings
from laion_assets.terminal.shard_run import shard_job
from laion_assets.terminal.submitted import submit
dg.DagsterInstance.submit_run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
settings = load_settings(dataset_name="sample", data_dir=Path(sys.argv[1]), source=(sys.argv[1],))
with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    submit(shard_job(settings, None), instance, settings, assets=["raw_shard"], shard=0, bulk=False, tags={})
"""


def test_a_command_that_is_killed_before_it_queues_its_run_leaves_no_shard_queued(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, source=(str(tmp_path),))
    ended = run_forked("-c", KILLED_BEFORE_THE_QUEUE, str(tmp_path), cwd=tmp_path, env={}, timeout=120)
    assert ended.returncode == -9, ended
    (run,) = instance.get_runs()
    assert read_histories(instance, settings)[0].state == "queued"
    assert settle_dead_runs(instance) == [run.run_id]
    assert read_histories(instance, settings)[0].state == "failed"


def test_a_database_that_fails_for_a_while_does_not_end_the_looks_for_dead_runs(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "SETTLE_SECONDS", 0.05)
    run_id = active_run(instance, identity(sleeper))
    with contextlib.closing(sqlite3.connect(tmp_path / "history" / "runs.db")) as database:
        database.execute("ALTER TABLE runs RENAME TO away")
        with settling_dead_runs(instance):
            time.sleep(0.5)
            database.execute("ALTER TABLE away RENAME TO runs")
            sleeper.kill()
            sleeper.wait()
            deadline = time.monotonic() + 20
            while status_of(instance, run_id) != dg.DagsterRunStatus.FAILURE:
                assert time.monotonic() < deadline
                time.sleep(0.05)
