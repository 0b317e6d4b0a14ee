"""`laion-assets bring-up-to-date`: makes everything that is stale or missing, in order, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
from rich.console import Console

from laion_assets.assets.same_settings import SETTINGS_TAG, settings_digest
from laion_assets.automation.update import read_update, submit_update
from laion_assets.definitions import build_definitions
from laion_assets.health.deleted import rows_by_shard, rows_of, why_left
from laion_assets.health.findings import look_at_table
from laion_assets.health.history import read_histories
from laion_assets.health.update import Update, chain_steps
from laion_assets.settings import Settings
from laion_assets.shard.store import ShardStore
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.interrupts import interrupts
from laion_assets.terminal.outcome import Outcome, outcome_table, show_end
from laion_assets.terminal.runs import STOPPED
from laion_assets.terminal.shard_run import run_shard, shard_job
from laion_assets.terminal.submitted import daemon_is_live


def bring_up_to_date(
    settings: Settings, instance: dg.DagsterInstance, console: Console, shards: str = "", *, dry_run: bool = False
) -> bool:
    """Asks the daemon for a backfill if one runs, else makes everything in this process; returns whether it
    succeeded.

    Raises `KeyboardInterrupt` after Ctrl-C or SIGTERM, once the run has ended. The same call then continues.
    """
    update = read_update(settings, instance, shards)
    console.print(f"to be made: {update}", markup=False, highlight=False)
    if update.nothing or dry_run:
        return True
    if daemon_is_live(instance):
        graph = build_definitions(settings).get_repository_def().asset_graph
        # Its runs fail in a code location with other settings: there they would make something else.
        backfill = submit_update(settings, instance, graph, update, {SETTINGS_TAG: settings_digest(settings)})
        console.print(f"asked for in backfill {backfill}: see Runs, Backfills in the UI", highlight=False)
        return True
    console.print("no daemon runs on this instance: it is made in this process", style="dim")
    outcomes = _make_shards(settings, instance, console, update)
    if outcomes:
        console.print(outcome_table(outcomes))
    built = not (update.index or update.cells or update.recall) or bool(build_and_measure(settings, instance, console))
    return built and not any(outcome.error for outcome in outcomes)


def _make_shards(settings: Settings, instance: dg.DagsterInstance, console: Console, update: Update) -> list[Outcome]:
    """Runs what each shard needs in this process, one after the other, and continues after a failed one."""
    outcomes = []
    with ShardBars(console) as bars, interrupts() as interrupted:
        job = shard_job(settings, bars.for_step)
        for shard, steps in update.shards.items():
            outcome = _make_alone(settings, job, shard, steps, instance, bars)
            if interrupted():
                console.print(STOPPED, style="yellow")
                raise KeyboardInterrupt
            outcomes.append(outcome)
            show_end(settings, bars, outcome)
    return outcomes


def _make_alone(
    settings: Settings,
    job: dg.JobDefinition,
    shard: int,
    steps: Sequence[str],
    instance: dg.DagsterInstance,
    bars: ShardBars,
) -> Outcome:
    """Runs the steps of a shard while no other load on this store works on it. Skips steps done by others, and a
    partition from which rows were deleted since the update was planned, which may be hours ago."""
    waited = False

    def say(line: str) -> None:
        nonlocal waited
        waited = True
        bars.say(line)

    with ShardStore.of(settings).at_work_on(shard, "load", say=say):
        (history,) = read_histories(instance, settings, [settings.dataset.key_of(shard)], with_errors=False)
        table = look_at_table(settings)
        rows, left = rows_of(shard, rows_by_shard(table)), why_left(history, table)
        if waited:
            steps = chain_steps(settings, history, rows)
        if left or not steps:
            return Outcome(shard, history.rows if rows is None else rows, 0.0, skipped=True, left=left)
        return run_shard(settings, job, shard, list(steps), instance)
