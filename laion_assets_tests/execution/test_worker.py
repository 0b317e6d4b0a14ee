"""Tests that a run whose process was killed is told from one that runs, also across containers' process numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.execution.launcher import WatchedRunLauncher
from laion_assets.execution.worker import FOLDER, OF_ONE_KERNEL, WORKER_TAG, Signature, lock_path, worker_is_gone
from laion_assets.terminal.instance import CONFIG_FILE, settle_dead_runs
from laion_assets_tests.automation.services import wait_for

WORKER = """
import sys
import dagster as dg
from laion_assets.execution.worker import sign
from laion_assets_tests.terminal.test_instance import active_run
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    run_id = active_run(instance, None)
    sign(instance, instance.get_run_by_id(run_id))
    print(run_id, flush=True)
    sys.stdin.read()
"""

IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Gives a process numbers of its own, as a container does. Only root may do so."""

WHERE = [
    pytest.param((), id="here"),
    pytest.param(
        IN_A_CONTAINER,
        id="in a container",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace"),
    ),
]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the repository's configuration."""
    (tmp_path / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


@contextmanager
def worker(instance: dg.DagsterInstance, where: tuple[str, ...]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A run, and the process that has begun to execute it."""
    command = [*where, sys.executable, "-c", WORKER, instance.root_directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
        process.kill()


def run_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run


def health(instance: dg.DagsterInstance, run_id: str) -> str:
    """The health that run monitoring reads."""
    launcher = instance.run_launcher
    assert isinstance(launcher, WatchedRunLauncher)
    assert launcher.supports_check_run_worker_health
    return launcher.check_run_worker_health(run_of(instance, run_id)).status.value


@pytest.mark.parametrize("where", WHERE)
def test_a_run_is_lost_when_its_process_was_killed_and_not_before(
    instance: dg.DagsterInstance, where: tuple[str, ...]
) -> None:
    with worker(instance, where) as (run_id, process):
        assert health(instance, run_id) == "RUNNING"
        assert settle_dead_runs(instance) == []
        process.kill()
        process.wait()
        # In a container the kernel ends the process right after that.
        wait_for(lambda: health(instance, run_id) == "NOT_FOUND" or None, seconds=20, what="the end of the process")
        assert settle_dead_runs(instance) == [run_id]
    assert run_of(instance, run_id).status == dg.DagsterRunStatus.FAILURE


def test_a_run_that_was_being_canceled_ends_as_canceled(instance: dg.DagsterInstance) -> None:
    with worker(instance, ()) as (run_id, process):
        instance.report_run_canceling(run_of(instance, run_id))
        process.kill()
        process.wait()
        assert settle_dead_runs(instance) == [run_id]
    assert run_of(instance, run_id).status == dg.DagsterRunStatus.CANCELED


def test_a_process_that_ends_by_itself_leaves_no_file(instance: dg.DagsterInstance) -> None:
    with worker(instance, ()) as (_, process):
        assert process.stdin is not None
        assert len(list((Path(instance.root_directory) / FOLDER).iterdir())) == 1
        process.stdin.close()
        process.wait()
    assert list((Path(instance.root_directory) / FOLDER).iterdir()) == []


def signed(instance: dg.DagsterInstance, run_id: str, signature: object) -> dg.DagsterRun:
    """The run with another signature."""
    instance.add_run_tags(run_id, {WORKER_TAG: str(signature)})
    return run_of(instance, run_id)


def killed(instance: dg.DagsterInstance) -> tuple[str, Signature]:
    """A run whose process was killed: its id, and its signature."""
    with worker(instance, ()) as (run_id, process):
        process.kill()
        process.wait()
    found = Signature.of(run_of(instance, run_id))
    assert found is not None
    return run_id, found


def test_nothing_is_known_of_other_hosts_copied_files_and_repeated_runs(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run_id, found = killed(instance)
    elsewhere = replace(found.process, host="elsewhere", namespace="4026539999", boot="another boot")
    (file,) = (tmp_path / FOLDER).iterdir()
    for signature in (
        replace(found, process=elsewhere),
        replace(found, run_id="the run before it"),
        replace(found, process=elsewhere, filesystem="nfs4"),
        "no signature",
    ):
        assert not worker_is_gone(instance, signed(instance, run_id, signature)), signature
    # A host that shares the folder by a copy of it: the copy has no lock, though the process may be alive.
    in_a_container = replace(found, process=replace(found.process, host="container", namespace="4026539999"))
    path = lock_path(tmp_path, in_a_container.process)
    os.link(file, path)
    assert worker_is_gone(instance, signed(instance, run_id, in_a_container))
    path.unlink()
    shutil.copy(file, path)
    assert not worker_is_gone(instance, signed(instance, run_id, in_a_container))


def test_a_container_of_an_earlier_boot_is_gone_where_only_this_kernel_can_have_the_disk(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run_id, found = killed(instance)
    (file,) = (tmp_path / FOLDER).iterdir()
    before = replace(found, process=replace(found.process, namespace="4026539999", boot="before"))
    os.link(file, lock_path(tmp_path, before.process))
    assert worker_is_gone(instance, signed(instance, run_id, before)) == (found.filesystem in OF_ONE_KERNEL)
    network = replace(before, filesystem="nfs4")
    assert not worker_is_gone(instance, signed(instance, run_id, network))
