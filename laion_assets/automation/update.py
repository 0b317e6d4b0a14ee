"""The job `bring_up_to_date`: one backfill of exactly what is stale or missing, which Dagster runs in order."""

import time

import dagster as dg

from laion_assets.dagster_internals.types import AssetGraph
from laion_assets.execution.executor import watched_executor
from laion_assets.health.builds import look_at_builds
from laion_assets.health.facts import read_facts
from laion_assets.health.history import read_histories
from laion_assets.health.keys import UPDATE_JOB, asset_key, job_name
from laion_assets.health.update import Update, what_to_update
from laion_assets.settings import Settings


class UpdateConfig(dg.Config):
    """The fields that the launchpad shows."""

    shards: str = ""
    """Shards such as 0-9 or 1,4,7-9; if empty, the shards that were begun or asked for."""


def read_update(settings: Settings, instance: dg.DagsterInstance, shards: str = "") -> Update:
    """What is stale or missing now. While another process holds the engine, it is not known what the table has lost.

    Raises `DatasetError` for shards that the dataset does not have, `StoreError`, `TableError`.
    """
    table, builds = look_at_builds(settings, wait_seconds=0)
    histories = read_histories(instance, settings, with_errors=False)
    chosen = set(settings.dataset.shard_numbers(shards)) if shards.strip() else None
    return what_to_update(settings, histories, read_facts(instance, settings, histories, builds), chosen, table)


def submit_update(
    settings: Settings, instance: dg.DagsterInstance, graph: AssetGraph, update: Update, tags: dict[str, str]
) -> str:
    """Asks Dagster's daemon for a backfill of these assets and partitions; returns the backfill's id.

    A backfill runs a shard's assets in order, and the index after all shards. If a shard fails, the index waits for the
    next milestone or the next update.
    """
    # Imported here: the import was a fifth of what importing the code location takes over Dagster, in each shard's run.
    from laion_assets.dagster_internals.backfills import (
        AssetGraphSubset,
        AssetKeyPartitionKey,
        PartitionBackfill,
        make_new_backfill_id,
    )

    wanted = {
        AssetKeyPartitionKey(asset_key(settings, step), settings.dataset.key_of(shard))
        for shard, steps in update.shards.items()
        for step in steps
    }
    whole = {"vector_index": update.index, "vector_cells": update.cells, "recall_report": update.recall}
    wanted |= {AssetKeyPartitionKey(asset_key(settings, name)) for name, behind in whole.items() if behind}
    subset = AssetGraphSubset.from_asset_partition_set(wanted, graph)
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags=tags,
        dynamic_partitions_store=instance,
        asset_graph_subset=subset,
        title="bring up to date",
        description=str(update)[:200],
        run_config=None,
    )
    instance.add_backfill(backfill)
    return str(backfill.backfill_id)


def update_job(settings: Settings) -> dg.JobDefinition:
    """The job. Its only step finds what is stale or missing and asks for it; the work is in the backfill's runs."""

    # Names of ops must be unique in a code location, which may hold several datasets.
    @dg.op(name=job_name(settings, "ask_for_what_is_stale"))
    def ask_for_what_is_stale(context: dg.OpExecutionContext, config: UpdateConfig) -> None:
        update = read_update(settings, context.instance, config.shards)
        context.log.info(f"to be made: {update}")
        if update.nothing:
            return
        graph = context.repository_def.asset_graph
        backfill = submit_update(settings, context.instance, graph, update, {})
        context.log.info(f"asked for in backfill {backfill}: /runs/b/{backfill}")

    @dg.job(
        name=job_name(settings, UPDATE_JOB),
        description="Makes what is stale or missing of the shards that were begun or asked for, then the index and "
        "its recall if they are out of date. It launches one backfill of exactly these, in order.",
        executor_def=watched_executor,
    )
    def bring_up_to_date() -> None:
        ask_for_what_is_stale()

    return bring_up_to_date
