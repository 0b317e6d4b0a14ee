"""What is under way besides the runs of shards: backfills that will make runs, and active runs of other assets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dagster import DagsterInstance, RunsFilter

from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.health.keys import (
    BUILD_JOB,
    JOBS,
    LOAD_JOB,
    REPORT_JOB,
    asset_key,
    built_assets,
    chain_keys,
    job_name,
)
from laion_assets.health.runs import ACTIVE
from laion_assets.settings import Settings

if TYPE_CHECKING:
    from laion_assets.dagster_internals.backfills import AssetBackfillData, AssetGraphSubset, PartitionBackfill


def waiting_in_backfills(instance: DagsterInstance, settings: Settings) -> set[str]:
    """Shards of active backfills that have no run yet: a backfill creates its runs a few at a time."""
    return {shard for backfill in _requested_backfills(instance) for shard in _without_a_run(backfill, settings)}


def _requested_backfills(instance: DagsterInstance) -> Sequence[PartitionBackfill]:
    # Imported here: the import was a fifth of what importing the code location takes over Dagster, in each shard's run.
    from laion_assets.dagster_internals.backfills import BulkActionsFilter, BulkActionStatus

    return instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))


def _without_a_run(backfill: PartitionBackfill, settings: Settings) -> set[str]:
    """The chain's partitions of a backfill (of assets, or of the job `load_shards`) that have no run yet."""
    if backfill.asset_backfill_data is None:
        ours = backfill.job_name == job_name(settings, LOAD_JOB)
        names = list(backfill.partition_names or []) if ours else []
        submitted = backfill.last_submitted_partition_name
        return set(names[names.index(submitted) + 1 :] if submitted in names else names)
    subsets = _waiting(backfill.asset_backfill_data).partitions_subsets_by_asset_key
    chain = [subsets[key] for key in chain_keys(settings).values() if key in subsets]
    return {key for subset in chain for key in subset.get_partition_keys()}


def _waiting(data: AssetBackfillData) -> AssetGraphSubset:
    """The assets and partitions of a backfill that have no run yet, and will have one."""
    return data.target_subset - data.requested_subset - data.failed_and_downstream_subset


@dataclass(frozen=True)
class RunUnderWay:
    """An active run that is not about a shard: its id, its state, what it makes in words (its assets, or its job), and
    the names of those of our assets that it makes.

    A backfill that will make such assets counts as a queued run, with its own id; `backfill` tells so.
    """

    run_id: str
    state: Literal["queued", "running"]
    what: str
    backfill: bool = False
    assets: tuple[str, ...] = ()


OF_THE_TABLE = (
    "vector_index",
    "vector_cells",
    "recall_report",
    "hnsw_tuning",
    "clip_encoders",
    "load_report",
    "remote_shard",
)
"""Assets that do not belong to a single shard."""


REPORT = ("load_report",)


def other_active_runs(instance: DagsterInstance, settings: Settings) -> list[RunUnderWay]:
    """Our active runs that are not about a shard, such as the index's, and those that backfills will make. Such a run
    may hold the table for long."""
    ours = {asset_key(settings, name) for name in OF_THE_TABLE}
    jobs = {job_name(settings, name) for name in JOBS}
    # A run of a whole job names no assets.
    whole_jobs = {job_name(settings, BUILD_JOB): tuple(built_assets(settings)), job_name(settings, REPORT_JOB): REPORT}
    found = []
    for run in instance.get_runs(RunsFilter(statuses=list(ACTIVE))):
        assets = sorted(key.to_user_string() for key in (run.asset_selection or ()) if key in ours)
        if PARTITION_TAG not in run.tags and (assets or run.job_name in jobs):
            what = ", ".join(assets) or run.job_name
            made = _names(assets) or whole_jobs.get(run.job_name, ())
            found.append(RunUnderWay(run.run_id, ACTIVE[run.status], what, assets=made))
    for backfill in _requested_backfills(instance):
        if backfill.asset_backfill_data is not None:
            waiting = _waiting(backfill.asset_backfill_data).non_partitioned_asset_keys & ours
            if waiting:
                assets = sorted(key.to_user_string() for key in waiting)
                what = ", ".join(assets)
                found.append(RunUnderWay(backfill.backfill_id, "queued", what, backfill=True, assets=_names(assets)))
    return found


def _names(assets: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.split("/")[-1] for name in assets)
