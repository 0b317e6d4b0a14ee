"""Tests of the commands' Dagster instance: DAGSTER_HOME's or this folder's, and cleaning up after killed commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.automation.queue import PriorityRunCoordinator
from laion_assets.errors import SettingsError
from laion_assets.execution.launcher import WatchedRunLauncher
from laion_assets.execution.termination import PROCESS_TAG
from laion_assets.machine import HOSTS_NAMESPACE, ProcessIdentity, is_gone, process_mark
from laion_assets.terminal import instance as instance_module
from laion_assets.terminal.init import init_folder
from laion_assets.terminal.instance import (
    CONFIG_FILE,
    dagster_instance,
    make_instance,
    process_tag,
    settle_dead_runs,
    settling_dead_runs,
)
from laion_assets_tests.conftest import REPOSITORY, assert_one_line
from laion_assets_tests.forked.process import ForkedProcess


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the folder and DAGSTER_HOME, which finding an instance changes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", "put back")
    monkeypatch.delenv("DAGSTER_HOME")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that only this test uses."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_the_instance_is_that_of_dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_instance(tmp_path / "home")
    (tmp_path / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    with dagster_instance() as instance:
        assert instance.root_directory == str(tmp_path / "home")


def test_without_dagster_home_it_is_that_of_this_folder(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    with dagster_instance() as instance:
        assert instance.root_directory == str(tmp_path)


def test_dagster_home_may_be_relative_and_an_empty_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    for folder in (tmp_path, tmp_path / "home"):
        (folder / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    for named, meant in (("", tmp_path), ("home", tmp_path / "home")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DAGSTER_HOME", named)
        with dagster_instance() as instance:
            assert instance.root_directory == str(meant)


@pytest.mark.parametrize("home", [None, "/nowhere"])
def test_a_folder_without_dagster_yaml_is_refused_with_what_to_do(
    home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home is not None:
        monkeypatch.setenv("DAGSTER_HOME", home)
    with pytest.raises(SettingsError) as caught:
        dagster_instance()
    assert_one_line(caught.value, f"no dagster.yaml in {home or 'this folder'}", "set DAGSTER_HOME")


def test_an_instance_of_its_own_sends_no_telemetry_and_keeps_what_is_set(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_instance(home)
    assert (home / "dagster.yaml").read_text() == CONFIG_FILE.read_text()
    with dagster_instance() as instance:
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
    (home / "dagster.yaml").write_text(f"{CONFIG_FILE.read_text()}# mine\n")
    make_instance(home)
    assert (home / "dagster.yaml").read_text().endswith("# mine\n")


def test_folders_that_commands_make_have_the_queue_and_the_monitoring_of_the_repository(tmp_path: Path) -> None:
    make_instance(tmp_path / "demo")
    init_folder(tmp_path / "init", "sample", ())
    for folder in (tmp_path / "demo", tmp_path / "init"):
        assert (folder / "dagster.yaml").read_bytes() == (REPOSITORY / "dagster.yaml").read_bytes()
        with dg.DagsterInstance.from_config(str(folder)) as instance:
            assert isinstance(instance.run_launcher, WatchedRunLauncher)
            assert instance.run_monitoring_enabled, "a run whose process was killed would keep its place in a pool"
            assert isinstance(instance.run_coordinator, PriorityRunCoordinator)
            configured = instance.get_concurrency_config().run_queue_config
            lanes = [] if configured is None else configured.tag_concurrency_limits or []
            assert {lane["value"] for lane in lanes} == {"load", "index", "report"}


OPENER = """
import sys
from laion_assets.terminal.instance import dagster_instance
sys.stdin.readline()
dagster_instance()
"""


def test_processes_that_open_a_new_instance_at_once_make_it_once(tmp_path: Path) -> None:
    make_instance(tmp_path / "home")
    openers = [ForkedProcess("-c", OPENER, cwd=tmp_path, env={**os.environ}) for _ in range(3)]
    for opener in openers:
        opener.stdin.write("\n")
        opener.stdin.flush()
    said = [opener.communicate(timeout=600)[1] for opener in openers]
    assert [opener.returncode for opener in openers] == [0, 0, 0], said


def active_run(
    instance: dg.DagsterInstance,
    tag: str | None,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED,
    parent: str | None = None,
) -> str:
    """Makes a run that is in progress and belongs to the process that the tag names."""
    run = instance.create_run(
        job_name="load_shards",
        run_id=None,
        run_config=None,
        status=status,
        tags=None if tag is None else {PROCESS_TAG: tag},
        root_run_id=parent,
        parent_run_id=parent,
        step_keys_to_execute=None,
        execution_plan_snapshot=None,
        job_snapshot=None,
        parent_job_snapshot=None,
        asset_selection=None,
        asset_check_selection=None,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=None,
        job_code_origin=None,
        asset_graph=None,  # type: ignore[arg-type]  # only runs with a plan need one
    )
    return run.run_id


def test_runs_of_processes_that_are_gone_are_ended_and_others_are_not(instance: dg.DagsterInstance) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    here = ProcessIdentity.here()
    living = replace(here, process=os.getppid(), started=begun(os.getppid()))
    killed = replace(here, process=sleeper.pid, started=begun(sleeper.pid))
    sleeper.kill()
    sleeper.wait()
    dead = [
        *(
            active_run(instance, str(killed), status)
            for status in (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)
        ),
        active_run(instance, str(replace(living, started=living.started - 1))),
        active_run(instance, str(replace(killed, boot="before", namespace=here.namespace)))
        if here.namespace == HOSTS_NAMESPACE
        else active_run(instance, str(killed)),
    ]
    others = [
        active_run(instance, str(living)),
        active_run(instance, str(replace(killed, host="elsewhere.example"))),
        active_run(instance, str(replace(killed, namespace="4026539999"))),
        active_run(instance, str(replace(killed, namespace="4026539999", boot="another host's container of one name"))),
        active_run(instance, f"{here.host}/{killed.process}"),
        active_run(instance, None),
    ]
    assert sorted(settle_dead_runs(instance)) == sorted(dead)
    for run_id in dead:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
    for other in others:
        still = instance.get_run_by_id(other)
        assert still is not None
        assert still.status == dg.DagsterRunStatus.STARTED
    assert settle_dead_runs(instance) == []


def test_a_command_that_is_killed_while_this_one_runs_gives_its_place_in_the_pool_to_it(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance_module, "SETTLE_SECONDS", 0.05)
    instance.event_log_storage.set_concurrency_slots("clickhouse", 1)
    here = ProcessIdentity.here()
    ours = active_run(instance, str(here))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        # A start of 0 means that it is not known, so any process with this number matches.
        theirs = active_run(instance, str(replace(here, process=other.pid, started=0)))
        assert instance.event_log_storage.claim_concurrency_slot("clickhouse", theirs, "step").is_claimed
        with settling_dead_runs(instance):
            time.sleep(0.3)
            assert not instance.event_log_storage.claim_concurrency_slot("clickhouse", ours, "step").is_claimed
            other.kill()
            other.wait()
            deadline = time.monotonic() + 30
            while not instance.event_log_storage.check_concurrency_claim("clickhouse", ours, "step").is_claimed:
                assert time.monotonic() < deadline
                instance.event_log_storage.claim_concurrency_slot("clickhouse", ours, "step")
                time.sleep(0.05)
    still = instance.get_run_by_id(ours)
    assert still is not None
    assert still.status == dg.DagsterRunStatus.STARTED


def test_a_run_that_the_ui_executes_again_is_none_of_the_command_that_executed_it_before(
    instance: dg.DagsterInstance,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run_id = active_run(
        instance, str(replace(ProcessIdentity.here(), process=gone.pid, started=0)), parent="the run before it"
    )
    assert settle_dead_runs(instance) == []
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.STARTED


def test_the_tag_names_this_process() -> None:
    assert process_tag() == {PROCESS_TAG: str(ProcessIdentity.here())}
    assert ProcessIdentity.parse(str(ProcessIdentity.here())) == ProcessIdentity.here()
    assert ProcessIdentity.here().started == begun(os.getpid()) > 0


def test_a_mark_in_a_table_s_name_is_of_one_process_and_no_later_one_of_its_number() -> None:
    mark = process_mark()
    assert re.fullmatch(r"[0-9a-f]+_[0-9a-f]+", mark)
    assert not is_gone(mark)
    host, _, process = mark.partition("_")
    assert is_gone(f"{host}_{os.getpid():08x}{begun(os.getpid()) - 1:x}"), "a process before it had the number"
    assert not is_gone(f"0{host}_{process}"), "another host's"


def begun(process: int) -> int:
    """Returns when a process began, from the kernel."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
