"""Ends runs at random moments of each stage, by Ctrl-C, SIGTERM and *Terminate*, and checks the state afterwards.

`python -m laion_assets_tests.torture.termination --times 10`. Within 5 s the run must be finished, its process must
have exited, and the engine's folder and the pool must be free. Completed work must be kept. At the end, a load, an
index build and a report must complete.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from laion_assets.assets import hnsw_tuning
from laion_assets.assets.location import POOL
from laion_assets.definitions import build_definitions
from laion_assets.health.keys import CHAIN
from laion_assets.index.cover import index_cover
from laion_assets.index.declared import index_names
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.embedded import holder_of
from laion_assets.table.mutations import unfinished_mutations
from laion_assets.table.schema import partitions
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.runs import execute_here
from laion_assets_tests.torture import stages
from laion_assets_tests.torture.life import fork, say

LIMIT_SECONDS = 5.0
STAGE_SECONDS = 120.0
"""Longest wait for a stage to start on a busy machine."""

STAGES: dict[str, tuple[str, ...]] = {
    "receive over HTTP": ("raw_shard",),
    "merge blocks": ("merged_shard",),
    "insert": ("clickhouse_partition",),
    "merge parts": ("clickhouse_partition",),
    "build indexes": ("vector_index",),
    "exact neighbours": ("recall_report",),
    "measure recall": ("recall_report",),
    "tune parameters": ("hnsw_tuning",),
}
"""Stages, each with the assets of its run. All but the first need a loaded shard; `recall_report` needs an index."""

WAYS = ("SIGINT", "SIGTERM", "terminate")
LONGEST: dict[str, float] = {"receive over HTTP": 1.0, "build indexes": 6.0, "measure recall": 2.0}
"""With 20,000 rows, a stage is ended within this many seconds after its start. Other stages: half a second."""


def limit_seconds() -> float:
    """The limit is 5 s, or longer if the load average of the last minute says that processes share cores."""
    return LIMIT_SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@dataclass
class Ended:
    """One run that was ended: in which stage, in which way, and the seconds until its process had exited.

    `under_way` is False if the run had already completed.
    """

    stage: str
    way: str
    seconds: float
    fault: str = ""
    under_way: bool = True


@dataclass
class Trial:
    """A folder with a shard, a store and a Dagster instance, in which runs are ended."""

    folder: Path
    rows: int
    queries: int
    seed: int
    url: str
    ended: list[Ended] = field(default_factory=list)

    def settings(self) -> Settings:
        """Settings with few queries and the default index parameters: a build takes seconds."""
        os.environ["DAGSTER_HOME"] = str(self.folder / "home")
        return load_settings(
            dataset_name="sample",
            data_dir=self.folder / "data",
            source=(self.url,),
            keep_raw=True,
            tuning_rows=max(1_000, self.rows // 2),
            recall_queries=self.queries,
            clickhouse_wait_seconds=5.0,
        )

    def run(self, times: int, wanted: tuple[str, ...], ways: tuple[str, ...]) -> None:
        """Ends each stage `times` times, then runs a load, a build and a report to completion."""
        chance = random.Random(self.seed)
        for stage in wanted:
            if STAGES[stage] != ("raw_shard",):
                self._finish(CHAIN)
            if STAGES[stage] == ("recall_report",):
                self._finish(("vector_index",))
            for number in range(times):
                after = chance.uniform(0, LONGEST.get(stage, 0.5)) * self.rows / 20_000
                self.ended.append(self._end_one(stage, ways[number % len(ways)], after))
                sys.stderr.write(f"{self.ended[-1]}\n")
        for assets in (CHAIN, ("vector_index",), ("recall_report",)):
            self._finish(assets)
        self._judge()

    def _end_one(self, stage: str, way: str, after: float) -> Ended:
        child, pipe = fork(_live, self, STAGES[stage], True)
        if not _reached(pipe, stage):
            _wait(child, 0.0)
            return Ended(stage, way, 0.0, "the stage was not reached")
        time.sleep(after)
        under_way = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        started = time.monotonic()
        if way == "terminate":
            with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
                runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
                started = time.monotonic()
                for run in runs:
                    instance.report_run_canceling(run)
        else:
            os.kill(child, getattr(signal, way))
        _wait(child, 4 * LIMIT_SECONDS)
        seconds = time.monotonic() - started
        os.close(pipe)
        return Ended(stage, way, round(seconds, 2), self._fault(seconds), under_way)

    def _fault(self, seconds: float) -> str:
        """The faults after a run was ended."""
        faults = [] if seconds <= limit_seconds() else [f"it took {seconds:.1f} s"]
        holder = holder_of(self.folder / "data" / "clickhouse")
        if holder is not None:
            faults.append(f"{holder} holds the engine")
        with dg.DagsterInstance.from_config(str(self.folder / "home")) as instance:
            faults += [f"a run is {run.status.value}" for run in instance.get_runs() if not run.is_finished]
            retried = [run.run_id for run in instance.get_runs(limit=1) if _was_retried(instance, run.run_id)]
            faults += [f"run {run_id} was repeated" for run_id in retried]
            if POOL in instance.event_log_storage.get_concurrency_keys():
                held = instance.event_log_storage.get_concurrency_info(POOL)
                if held.active_slot_count or held.pending_step_count or held.assigned_step_count:
                    faults.append("the pool is held")
        return "; ".join(faults)

    def _finish(self, assets: tuple[str, ...]) -> None:
        child, pipe = fork(_live, self, assets, False)
        said = _read_all(pipe)
        os.waitpid(child, 0)
        if "SUCCESS" not in said:
            self.ended.append(Ended(" ".join(assets), "let run", 0.0, f"did not end well: {said[-1000:]}"))

    def _judge(self) -> None:
        child, pipe = fork(_look, self)
        said = _read_all(pipe)
        os.waitpid(child, 0)
        if said.strip() != "sound":
            self.ended.append(Ended("the table", "let run", 0.0, said))


def _was_retried(instance: dg.DagsterInstance, run_id: str) -> bool:
    return bool(instance.all_logs(run_id, of_type={dg.DagsterEventType.STEP_UP_FOR_RETRY}))


def _live(trial: Trial, assets: tuple[str, ...], armed: bool, pipe: int) -> None:
    settings = trial.settings()
    if armed:
        if assets == ("raw_shard",):
            shutil.rmtree(settings.data_dir / "raw", ignore_errors=True)
        if assets == ("vector_index",):
            # The run before may have completed before it was ended, so an index may exist.
            with connect(settings) as db:
                for name in index_names(db):
                    db.command(f"ALTER TABLE {db.table} DROP INDEX IF EXISTS {name} SETTINGS mutations_sync = 2")
        stages.STAGES["tune parameters"] = [(hnsw_tuning, "tune")]
        stages.arm(pipe)
    job = build_definitions(settings).get_repository_def().get_implicit_global_asset_job_def()
    with dagster_instance() as instance:
        run = execute_here(job, instance, assets=assets, key="0" if set(assets) <= set(CHAIN) else None)
    say(pipe, run.status.value)


def _look(trial: Trial, pipe: int) -> None:
    with connect(trial.settings()) as db:
        states = [(state.shard, state.rows, state.parts) for state in partitions(db)]
        tables = [str(name) for (name,) in db.rows("SHOW TABLES")]
        lacking = [state.missing for state in index_cover(db) if state.missing]
        left = unfinished_mutations(db)
    sound = (
        states == [(0, trial.rows, 1)]
        and not [name for name in tables if "_staging_" in name]
        and not lacking
        and not left
    )
    say(pipe, "sound" if sound else f"{states} {tables} {lacking} {left}")


def _reached(pipe: int, stage: str) -> bool:
    """Reads the child's reports until it reaches the stage. False: the stage was not reached."""
    said, deadline = b"", time.monotonic() + STAGE_SECONDS
    while time.monotonic() < deadline:
        readable, _, _ = select.select([pipe], [], [], 1.0)
        data = os.read(pipe, 1 << 16) if readable else b""
        if readable and not data:
            return False
        said += data
        if f"{stage}\n".encode() in said:
            return True
    return False


def _wait(child: int, seconds: float) -> None:
    """Waits until the child exits, and kills it after `seconds`."""
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() >= deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.01)


def _read_all(pipe: int) -> str:
    said = b""
    while data := os.read(pipe, 1 << 16):
        said += data
    os.close(pipe)
    return said.decode(errors="replace")


def run_trial(
    folder: Path, *, times: int, rows: int, queries: int, seed: int, wanted: tuple[str, ...], ways: tuple[str, ...]
) -> list[Ended]:
    """Runs a trial in an empty folder. Returns all runs that were ended, and other faults as further entries."""
    write_sample_shard(folder / "source", 0, rows)
    make_instance(folder / "home")
    command = [sys.executable, "-m", "laion_assets_tests.torture.serve", str(folder / "source")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        trial = Trial(folder, rows, queries, seed, server.stdout.readline().strip())
        _warm(trial.settings)
        trial.run(times, wanted, ways)
        server.stdin.close()
    return trial.ended


def _warm(settings: Callable[[], Settings]) -> None:
    """Imports modules in the parent, so that no child has to. Opens no engine."""
    build_definitions(settings()).get_repository_def()


def main() -> None:
    """Runs a trial and prints its counts. Exit code 1: something was left, or a run took longer than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS)
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=list(STAGES))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="termination-") as folder:
        wanted, ways = tuple(given.stages), tuple(given.ways)
        sizes = {"times": given.times, "rows": given.rows, "queries": given.queries}
        ended = run_trial(Path(folder), **sizes, seed=seed, wanted=wanted, ways=ways)
    by_stage = {stage: [one for one in ended if one.stage == stage] for stage in given.stages}
    faults = [str(one) for one in ended if one.fault]
    facts = {
        "seed": seed,
        "ended": {stage: len(runs) for stage, runs in by_stage.items()},
        "under_way": {stage: sum(one.under_way for one in runs) for stage, runs in by_stage.items()},
        "longest_seconds": {stage: max((one.seconds for one in runs), default=0.0) for stage, runs in by_stage.items()},
        "load": os.getloadavg()[0],
        "faults": faults,
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
