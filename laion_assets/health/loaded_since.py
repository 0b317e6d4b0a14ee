"""Which partitions were loaded after the last build of an index began. Checks and recall judge the others."""

from __future__ import annotations

from collections.abc import Sequence, Set

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunsFilter

from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.health.history import LOADS_SEEN
from laion_assets.health.keys import asset_key
from laion_assets.health.runs import is_of_a_shard
from laion_assets.settings import Settings
from laion_assets.shard_numbers import as_ranges

LOADED_SINCE = "loaded_since"
"""Key of the metadata of checks and of recall: the partitions that were not judged, as ranges such as 0-9, 12."""

AT_WORK = (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)
"""A run with this status may have swapped its partition in before Dagster has the event of its load. If Dagster has
it, the run only waits for its check."""


def loaded_since(instance: DagsterInstance, settings: Settings, *assets: str) -> frozenset[int]:
    """The shards that were loaded after the last build of one of these assets began, or are being loaded.

    The build does not cover such a partition, or covers it as it was before. Empty if there was no build: then every
    partition is to be judged.
    """
    key = asset_key(settings, "clickhouse_partition")
    loads = instance.get_latest_storage_id_by_partition(key, DagsterEventType.ASSET_MATERIALIZATION)
    builds = (instance.fetch_materializations(asset_key(settings, asset), limit=1).records for asset in assets)
    begun = [loads_seen(records[0]) for records in builds if records]
    if not begun:
        return frozenset()
    numbers = dict(zip(settings.dataset.shard_keys, settings.dataset.shards, strict=True))
    later = {shard for shard, event in loads.items() if event > min(begun)}
    later |= {
        run.tags[PARTITION_TAG]
        for run in instance.get_runs(RunsFilter(statuses=[*AT_WORK]))
        if is_of_a_shard(run, settings) and (run.asset_selection is None or key in run.asset_selection)
        if _last_load(instance, key, run.tags[PARTITION_TAG]) != run.run_id
    }
    return frozenset(numbers[shard] for shard in later if shard in numbers)


def _last_load(instance: DagsterInstance, key: dg.AssetKey, partition: str) -> str:
    """The run that loaded a partition last; empty if none did."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[partition])
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0].run_id if records else ""


def loads_seen(build: dg.EventLogRecord) -> int:
    """The event after which loads are newer than a build: it recorded that event when it began. If it recorded none,
    the event of the build itself."""
    metadata = {} if build.asset_materialization is None else build.asset_materialization.metadata
    seen = metadata.get(LOADS_SEEN)
    return seen.value if seen is not None and isinstance(seen.value, int) else build.storage_id


def said(faults: Sequence[str], later: Set[int], otherwise: str = "") -> str | None:
    """A check's description: the faults, and the partitions that were not judged; None if there is nothing to say."""
    since = f"loaded since the build, not judged: {as_ranges(later)}" if later else ""
    return "; ".join(part for part in (*faults, otherwise, since) if part) or None
