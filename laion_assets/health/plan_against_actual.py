"""Compares the plan that was kept when a load began with Dagster's records and the table."""

from __future__ import annotations

import dagster as dg
from dagster import AssetKey, DagsterInstance

from laion_assets.errors import EngineHeldError
from laion_assets.health.finding import TableLook
from laion_assets.health.history import ShardHistory, recorded_numbers
from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.plan.calibration import SHARD_STAGES
from laion_assets.plan.kept_plan import ActualFigures, Compared, compare, plan_path, read_plan
from laion_assets.plan.load_plan import LoadPlan
from laion_assets.settings import Settings
from laion_assets.shard.files import Location
from laion_assets.shard.store import ShardStore
from laion_assets.table.schema import PartitionState

SINCE_LIMIT = 1_000
"""Runs of index and recall that are read at most: there is one for each milestone."""


def plan_against_actual(
    settings: Settings, instance: DagsterInstance, histories: list[ShardHistory], table: TableLook
) -> list[Compared]:
    """The kept plan compared with what happened since it was made; empty without a plan, or before its first shard.

    If another process holds the table, disk use is left out.
    """
    plan = read_plan(plan_path(settings))
    if plan is None or plan.dataset != settings.dataset.name:
        return []
    planned = {shard.shard for shard in plan.shards}
    done = [one for one in histories if one.shard in planned and (one.loaded_at or 0) >= plan.made_at]
    if not done:
        return []
    loaded = None if isinstance(table, EngineHeldError) else table
    happened = _actual_figures(settings, instance, plan, done, loaded)
    return compare(plan, happened, keep_raw=settings.keep_raw, keep_merged=settings.keep_merged)


def _actual_figures(
    settings: Settings,
    instance: DagsterInstance,
    plan: LoadPlan,
    done: list[ShardHistory],
    loaded: list[PartitionState] | None,
) -> ActualFigures:
    shards = [one.shard for one in done]
    seconds = {
        stage: sum(one.seconds.get(asset, 0.0) for one in done)
        for stage, asset in zip(SHARD_STAGES, CHAIN, strict=False)
    }
    # The time of a run outside its steps: checks, and Dagster itself.
    seconds["checks"] = max(0.0, _run_seconds(instance, done) - sum(seconds.values()))
    columns = len(settings.dataset.vector_columns)
    built = _since(instance, asset_key(settings, "vector_index"), plan)
    if built:
        seconds["index"] = sum(numbers["seconds"] for numbers in built)
    reports = _since(instance, asset_key(settings, "recall_report"), plan)
    if reports and len(shards) == len(plan.shards):
        seconds["recall"] = reports[0]["seconds"]
    cores = {
        "steps": sum(one.core_seconds for one in done),
        "index": sum(numbers["core_seconds"] for numbers in built),
    }
    peaks = {
        "load": max(one.peak_bytes for one in done),
        "index": int(max((numbers["peak_memory_bytes"] for numbers in built), default=0)),
    }
    rows_indexed = round(sum(numbers["vectors_built"] for numbers in built) / columns)
    disk = 0 if loaded is None else _disk_bytes(settings, shards, loaded)
    return ActualFigures(shards, seconds, cores, sum(one.raw_bytes for one in done), disk, rows_indexed, peaks)


def _run_seconds(instance: DagsterInstance, done: list[ShardHistory]) -> float:
    records = instance.get_run_records(dg.RunsFilter(run_ids=[one.run_id for one in done]))
    return sum((record.end_time or 0.0) - (record.start_time or record.end_time or 0.0) for record in records)


def _since(instance: DagsterInstance, key: AssetKey, plan: LoadPlan) -> list[dict[str, float]]:
    """The numbers of each materialization since the plan was made, the newest first."""
    wanted = dg.AssetRecordsFilter(key, after_timestamp=plan.made_at)
    records = instance.fetch_materializations(wanted, limit=SINCE_LIMIT).records
    return [recorded_numbers(record) for record in records]


def _disk_bytes(settings: Settings, shards: list[int], loaded: list[PartitionState]) -> int:
    """Bytes of these shards' partitions, including indexes, and of their files that the store keeps."""
    store = ShardStore.of(settings)
    total = sum(state.bytes_on_disk for state in loaded if state.shard in shards)
    if not settings.clickhouse_url.get_secret_value().startswith("chdb:"):
        total = 0
    for shard in shards:
        paths: list[Location] = [store.merged_path(shard), *store.raw_files(shard).paths().values()]
        total += sum(_size(path) for path in paths)
    return total


def _size(location: Location) -> int:
    """The bytes that a file takes in the store; 0 if it is a second name (hard link) of another file."""
    try:
        facts = location.stat()
    except FileNotFoundError:
        return 0
    return facts.st_size if getattr(facts, "st_nlink", 1) in (0, 1) else 0
