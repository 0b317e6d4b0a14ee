"""Writes shard histories into a Dagster instance for tests: materializations, and runs in every state."""

from __future__ import annotations

import time

import dagster as dg
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin

from laion_assets.definitions import build_definitions
from laion_assets.health.keys import CHAIN, LOAD_JOB, asset_key, chain_keys, job_name
from laion_assets.settings import Settings

ORIGIN = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("laion_assets"), "__repository__")
"""The origin recorded in each run. Dagster requires one for a queued run."""


class Recorder:
    """Writes the history of an instance. No step is executed."""

    def __init__(self, instance: DagsterInstance, settings: Settings) -> None:
        self.instance = instance
        self.settings = settings
        self.definitions = build_definitions(settings)
        self.job = self.definitions.resolve_job_def(job_name(settings, LOAD_JOB))

    def load(self, *shards: int, rows: int = 100, quarantined: int = 0, upto: str = "clickhouse_partition") -> None:
        """Records materializations of these shards, from the first asset of the chain to `upto`, one second each."""
        for shard in shards:
            for asset in CHAIN[: CHAIN.index(upto) + 1]:
                self.instance.report_runless_asset_event(
                    dg.AssetMaterialization(
                        asset_key(self.settings, asset),
                        partition=str(shard),
                        metadata={"dagster/partition_row_count": rows, "quarantined": quarantined, "seconds": 1.0},
                    )
                )

    def load_last(self, *shards: int) -> None:
        """Records only the last asset of these shards, which is enough to count them as loaded."""
        for shard in shards:
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization(asset_key(self.settings, CHAIN[-1]), partition=str(shard))
            )

    def run(self, shard: int, status: DagsterRunStatus, *assets: str) -> dg.DagsterRun:
        """Records a run with this status, of a shard's whole chain or of some of its assets."""
        selected = frozenset(asset_key(self.settings, asset) for asset in assets or CHAIN)
        return self.instance.create_run_for_job(
            self.job.get_subset(asset_selection=selected),
            status=status,
            asset_selection=selected,
            tags={"dagster/partition": str(shard)},
            remote_job_origin=ORIGIN.get_job_origin(self.job.name),
        )

    def fail(self, *shards: int, message: str = "no space left") -> list[dg.DagsterRun]:
        """Records a failed run for each of these shards."""
        runs = [self.run(shard, DagsterRunStatus.STARTED) for shard in shards]
        for run in runs:
            self.instance.report_run_failed(run, message)
        return runs

    def backfill(self, *shards: int) -> PartitionBackfill:
        """Records a backfill of these shards' chain as the UI does, before any of its runs exists."""
        graph = self.definitions.get_repository_def().asset_graph
        backfill = PartitionBackfill.from_asset_partitions(
            backfill_id=f"backfill{time.monotonic_ns()}",
            asset_graph=graph,
            partition_names=[str(shard) for shard in shards],
            asset_selection=list(chain_keys(self.settings).values()),
            backfill_timestamp=time.time(),
            tags={},
            dynamic_partitions_store=self.instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
        self.instance.add_backfill(backfill)
        return backfill

    def make_runs(self, backfill: PartitionBackfill, *shards: int) -> PartitionBackfill:
        """Marks these shards as requested in a backfill, as the daemon does, and queues their runs."""
        graph = self.definitions.get_repository_def().asset_graph
        data = backfill.get_asset_backfill_data(graph)
        asked = {
            AssetKeyPartitionKey(key, str(shard)) for key in chain_keys(self.settings).values() for shard in shards
        }
        requested = data.requested_subset | AssetGraphSubset.from_asset_partition_set(asked, graph)
        made = backfill.with_asset_backfill_data(data.replace_requested_subset(requested), self.instance, graph)
        self.instance.update_backfill(made)
        for shard in shards:
            self.run(shard, DagsterRunStatus.QUEUED)
        return made

    def succeed(self, *shards: int) -> None:
        """Records a successful run for each of these shards, with the last asset materialized."""
        for shard in shards:
            self.load_last(shard)
            self.run(shard, DagsterRunStatus.SUCCESS)
