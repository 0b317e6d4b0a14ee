"""`laion-assets load`: runs the job `load_shards` for a set of shards, one run a shard, in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import dagster as dg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from laion_assets.assets.location import ProgressOf
from laion_assets.definitions import build_definitions
from laion_assets.errors import LaionError
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import CHAIN, LOAD_JOB, job_name
from laion_assets.health.runs import failure_reason
from laion_assets.settings import Settings
from laion_assets.shard.merged import read_merged
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.instance import process_tag
from laion_assets.terminal.plan import keep_plan_for

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Dagster's console log would tear the bars apart; the events are in the instance, and the UI shows them."""


@dataclass(frozen=True)
class Outcome:
    """What became of one shard: rows in the table, seconds, and why it failed."""

    shard: int
    rows: int
    seconds: float
    error: str = ""
    skipped: bool = False


def load(settings: Settings, shards: list[int], instance: dg.DagsterInstance, console: Console, *, again: bool) -> bool:
    """Loads what is missing of `shards`, goes on after a failed one, prints a table; whether all are loaded.

    The plan of what is missing is kept first, so that `laion-assets status` can hold it against what happened.

    Raises `KeyboardInterrupt` after the run in which Ctrl-C came, and says first that the same call goes on.
    """
    with connect(settings) as db:
        loaded = partitions(db)
    rows_in_table = {state.shard: state.rows for state in loaded}
    if any(shard not in rows_in_table for shard in shards):
        keep_plan_for(settings, shards, loaded)
    histories = read_histories(instance, settings, [str(shard) for shard in shards], with_errors=False)
    outcomes: list[Outcome] = []
    with ShardBars(console) as bars, _interrupts() as interrupted:
        job = shard_job(settings, bars.for_step)
        for shard, history in zip(shards, histories, strict=True):
            rows = rows_in_table.get(shard, 0)
            steps = list(CHAIN) if again else missing_steps(settings, history, rows)
            if not steps:
                outcomes.append(Outcome(shard, rows, 0.0, skipped=True))
                continue
            outcome = run_shard(job, shard, steps, instance)
            if interrupted():
                console.print("stopped: the same command goes on where it was", style="yellow")
                raise KeyboardInterrupt
            outcomes.append(outcome)
            bars.bar(str(shard)).end("failed" if outcome.error else "loaded", f"{outcome.rows:,} rows")
    console.print(outcome_table(outcomes))
    return not any(outcome.error for outcome in outcomes)


def missing_steps(settings: Settings, history: ShardHistory, rows_in_table: int) -> list[str]:
    """The steps of the chain that a shard still needs, in order: none when Dagster and the table agree that they have
    it, and its last run ended well (one that was killed after its load has not looked at what it loaded)."""
    if (
        history.loaded_at is not None
        and history.rows == rows_in_table
        and history.last_run not in ("failed", "canceled")
    ):
        return []
    if "merged_shard" in history.seconds:
        shard = int(history.key)
        store = ShardStore.of(settings)
        with contextlib.suppress(LaionError):
            read_merged(store.merged_path(shard), dataset=store.dataset, shard=shard)
            return ["clickhouse_partition"]
    return list(CHAIN)


def outcome_table(outcomes: list[Outcome]) -> Table:
    """A row a shard: what succeeded and failed, and why."""
    table = Table("shard", "result", "rows", "seconds", "rows/s", "why", title="load_shards")
    for name in ("shard", "rows", "seconds", "rows/s"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for outcome in outcomes:
        result = "[red]failed" if outcome.error else "was loaded" if outcome.skipped else "[green]loaded"
        rate = f"{outcome.rows / outcome.seconds:,.0f}" if outcome.seconds and outcome.rows else ""
        table.add_row(
            str(outcome.shard), result, f"{outcome.rows:,}", f"{outcome.seconds:.1f}", rate, Text(outcome.error)
        )
    return table


def shard_job(settings: Settings, progress: ProgressOf | None) -> dg.JobDefinition:
    """The job `load_shards` under these settings."""
    return build_definitions(settings, progress).resolve_job_def(job_name(settings, LOAD_JOB))


def run_shard(job: dg.JobDefinition, shard: int, steps: list[str], instance: dg.DagsterInstance) -> Outcome:
    """Runs these assets of one shard in this process; a failure is in the outcome."""
    started = time.perf_counter()
    result = job.execute_in_process(
        partition_key=str(shard),
        instance=instance,
        asset_selection=[key for key in job.asset_layer.selected_asset_keys if key.path[-1] in steps],
        run_config=QUIET,
        raise_on_error=False,
        tags=process_tag(),
    )
    rows = 0
    for event in result.get_asset_materialization_events():
        if event.asset_key is not None and event.asset_key.path[-1] == CHAIN[-1]:
            rows = int(
                str(event.step_materialization_data.materialization.metadata["dagster/partition_row_count"].value)
            )
    error = "" if result.success else failure_reason(instance, result.run_id)
    return Outcome(shard, rows, time.perf_counter() - started, error)


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C came. Use in the main thread.

    Dagster has handlers of its own during a run: a Ctrl-C fails the step that is running, and one between two steps is
    forgotten at the run's end. Python notes a signal in the wakeup file whatever its handler does.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            return signal.SIGINT in os.read(reader, 1024)
        return False

    try:
        yield came
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
