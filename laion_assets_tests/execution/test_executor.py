"""Tests that a run's process can be ended while it waits, and exits when Dagster has marked its run as failed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from laion_assets.execution.executor import _shielding_children_from_ctrl_c
from laion_assets.terminal.instance import CONFIG_FILE
from laion_assets_tests.automation.services import wait_for
from laion_assets_tests.forked.process import ForkedProcess
from laion_assets_tests.torture.termination import limit_seconds

PROGRAM = """
import os, sys, time
import dagster as dg
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._utils.interrupts import capture_interrupts
from laion_assets.execution.executor import watched_executor

held = [os.dup(0) for _ in range(1_100 if sys.argv[2] == "has many files open" else 0)]

@dg.asset(pool="clickhouse")
def patient(context):
    print("begun", flush=True)
    if sys.argv[2] == "repeats":
        raise dg.RetryRequested(max_retries=3, seconds_to_wait=60)
    if sys.argv[2] == "swallows":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    time.sleep(60)

job = dg.define_asset_job("waits", selection="*", executor_def=watched_executor)
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    job = dg.Definitions([patient], jobs=[job]).resolve_job_def("waits")
    run = instance.create_run_for_job(job)
    print(run.run_id, flush=True)
    with capture_interrupts():
        for _ in execute_run_iterator(InMemoryJob(job), run, instance):
            pass
"""


class Waiting:
    """A process that executes a run on a separate instance until it is ended."""

    def __init__(self, home: Path, kind: str) -> None:
        self.home = home
        self.process = ForkedProcess("-c", PROGRAM, str(home), kind, cwd=home, env={**os.environ}, quiet=True)
        self.run_id = self.line()

    def line(self) -> str:
        """The next line that the process prints."""
        return self.process.stdout.readline().strip()

    def seconds_to_end(self, end: Callable[[], None]) -> float:
        """Calls `end` and returns the seconds until the process exits."""
        started = time.monotonic()
        end()
        self.process.wait(60)
        return time.monotonic() - started

    def status(self) -> dg.DagsterRunStatus:
        """The status of the run."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            run = instance.get_run_by_id(self.run_id)
        assert run is not None
        return run.status

    def cancel(self) -> None:
        """Records what *Terminate* records, but sends no signal."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            run = instance.get_run_by_id(self.run_id)
            assert run is not None
            instance.report_run_canceling(run)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    return tmp_path


def take_the_pool(home: Path) -> None:
    """Lets another run claim the only slot of the pool."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default("clickhouse")
        instance.event_log_storage.claim_concurrency_slot("clickhouse", "another run", "a step")


def test_a_run_that_waits_for_a_pool_sleeps_and_ends_at_once(home: Path) -> None:
    take_the_pool(home)
    waiting = Waiting(home, "sleeps")
    wait_for(lambda: pending_steps(home) == 1 or None, seconds=60, what="the step that waits for the pool")
    before = cpu_seconds(waiting.process.pid)
    time.sleep(2)
    assert cpu_seconds(waiting.process.pid) - before < 1.0, "it does not spin"
    assert waiting.seconds_to_end(lambda: waiting.process.send_signal(signal.SIGINT)) <= limit_seconds()
    assert waiting.status() == dg.DagsterRunStatus.FAILURE
    assert pending_steps(home) == 0


def pending_steps(home: Path) -> int:
    """The number of steps that wait for a slot of the pool."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return instance.event_log_storage.get_concurrency_info("clickhouse").pending_step_count


def cpu_seconds(process: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("kind", ["sleeps", "repeats", "swallows", "has many files open"])
@pytest.mark.parametrize("way", ["SIGTERM", "Terminate"])
def test_a_run_ends_with_its_process_wherever_it_is(home: Path, kind: str, way: str) -> None:
    waiting = Waiting(home, kind)
    assert waiting.line() == "begun"
    time.sleep(1)
    end = waiting.cancel if way == "Terminate" else lambda: waiting.process.send_signal(signal.SIGTERM)
    assert waiting.seconds_to_end(end) <= limit_seconds() + 1.0  # includes the time to open the instance
    expected = dg.DagsterRunStatus.CANCELED if way == "Terminate" else dg.DagsterRunStatus.FAILURE
    assert waiting.status() == expected
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.event_log_storage.get_concurrency_info("clickhouse").active_slot_count == 0


def test_a_process_whose_run_was_declared_over_ends_itself(home: Path) -> None:
    waiting = Waiting(home, "sleeps")
    assert waiting.line() == "begun"

    def declare() -> None:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            run = instance.get_run_by_id(waiting.run_id)
            assert run is not None
            instance.report_run_failed(run, "given up by run monitoring")

    assert waiting.seconds_to_end(declare) <= limit_seconds() + 1.0
    assert waiting.status() == dg.DagsterRunStatus.FAILURE


def test_processes_started_before_the_first_event_hear_no_ctrl_c() -> None:
    """These processes copy the steps' log to the terminal. Each of them printed a traceback at Ctrl-C."""
    children: list[subprocess.Popen[bytes]] = []

    def events() -> Iterator[Any]:
        for _ in range(2):
            children.append(subprocess.Popen(["sleep", "60"]))
            yield children[-1]

    assert list(_shielding_children_from_ctrl_c(events())) == children  # type: ignore[comparison-overlap]  # any events do
    blocked = [
        next(line for line in Path(f"/proc/{child.pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
        for child in children
    ]
    for child in children:
        child.kill()
        child.wait()
    blocked_in = [bool(int(line.split()[1], 16) & 1 << (signal.SIGINT - 1)) for line in blocked]
    assert blocked_in == [True, False]
