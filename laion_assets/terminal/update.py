"""`laion-assets bring-up-to-date`: makes everything that is stale or missing, in order, and nothing else."""

from __future__ import annotations

import dagster as dg
from rich.console import Console

from laion_assets.automation.update import read_update, submit_update
from laion_assets.definitions import build_definitions
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.outcome import outcome_table, show_end
from laion_assets.terminal.shard_run import run_shard, shard_job
from laion_assets.terminal.submitted import daemon_is_live


def bring_up_to_date(
    settings: Settings, instance: dg.DagsterInstance, console: Console, shards: str = "", *, dry_run: bool = False
) -> bool:
    """Asks the daemon for a backfill if one runs, else makes everything in this process; returns whether it
    succeeded."""
    update = read_update(settings, instance, shards)
    console.print(f"to be made: {update}", markup=False, highlight=False)
    if update.nothing or dry_run:
        return True
    if daemon_is_live(instance):
        graph = build_definitions(settings).get_repository_def().asset_graph
        backfill = submit_update(settings, instance, graph, update, {})
        console.print(f"asked for in backfill {backfill}: see Runs, Backfills in the UI", highlight=False)
        return True
    console.print("no daemon runs on this instance: it is made in this process", style="dim")
    outcomes = []
    with ShardBars(console) as bars:
        job = shard_job(settings, bars.for_step)
        for shard, steps in update.shards.items():
            outcome = run_shard(settings, job, shard, list(steps), instance)
            outcomes.append(outcome)
            show_end(settings, bars, outcome)
    if outcomes:
        console.print(outcome_table(outcomes))
    built = not (update.index or update.cells or update.recall) or build_and_measure(settings, instance, console)
    return built and not any(outcome.error for outcome in outcomes)
