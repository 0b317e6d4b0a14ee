"""Tests that a statement ends with its run under Dagster's own executors, as a component's project has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.execution.worker import Signature
from laion_assets.machine import ProcessIdentity
from laion_assets.terminal.instance import CONFIG_FILE
from laion_assets_tests.conftest import REPOSITORY
from laion_assets_tests.torture.termination import limit_seconds

PROJECT = """
import threading
from pathlib import Path

import dagster as dg

from laion_assets.assets.location import CodeLocation, asset
from laion_assets.execution.termination import RunWatch
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect

HOME = Path(__file__).parent
settings = load_settings(dataset_name="sample", data_dir=HOME / "data")


def slow(context: dg.AssetExecutionContext) -> None:
    watches = [thread.name for thread in threading.enumerate()].count("run-watch")
    with connect(settings) as db:
        print("begun", watches, context.run_id, flush=True)
        db.rows("SELECT sum(sleepEachRow(1)) FROM numbers(60) SETTINGS function_sleep_max_microseconds_per_block = 1e8")


slow_asset = asset(CodeLocation(settings), "slow", "Runs a statement.", group="tests", kinds=set(), touches_table=True)(
    slow
)


def job():
    job = dg.define_asset_job("of_someone", selection="*")
    return dg.Definitions([slow_asset], jobs=[job], executor=EXECUTOR).resolve_job_def("of_someone")


if __name__ == "__main__":
    with dg.DagsterInstance.from_config(str(HOME)) as instance:
        dg.execute_job(dg.reconstructable(job), instance)
"""

EXECUTORS = {
    "multiprocess": "dg.multiprocess_executor",
    "in_process": "dg.in_process_executor",
    "ours": "__import__('laion_assets.execution.executor').execution.executor.watched_executor",
}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_terminate_ends_a_statement_under_any_executor(tmp_path: Path, executor: str) -> None:
    (tmp_path / "dagster.yaml").write_text(CONFIG_FILE.read_text())
    program = tmp_path / "project_of_someone.py"
    program.write_text(PROJECT.replace("EXECUTOR", EXECUTORS[executor]))
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        subprocess.Popen(
            [sys.executable, str(program)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DAGSTER_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        begun = next((line for line in process.stdout if line.startswith("begun")), "")
        assert begun.split()[1:2] == ["1"], "one watch over each process"
        run_id = begun.split()[2]
        time.sleep(1)
        started = time.monotonic()
        # What a code server does at *Terminate*.
        run = instance.get_run_by_id(run_id)
        assert run is not None
        signature = Signature.of(run)
        assert signature is not None
        assert signature.process == ProcessIdentity.of(process.pid), "whoever looks for dead runs finds this process"
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        process.wait(90)
        seconds = time.monotonic() - started
        ended = instance.get_run_by_id(run_id)
        places = instance.event_log_storage.get_concurrency_info("clickhouse")
    assert ended is not None
    assert ended.status == dg.DagsterRunStatus.CANCELED
    assert places.active_slot_count == places.pending_step_count == 0
    assert seconds <= limit_seconds() + 2.0, "the executor's own process ends after the step's"
