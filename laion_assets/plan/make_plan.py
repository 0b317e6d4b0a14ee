"""Makes a plan: what loading a set of shards will cost on some hosts, and which resource is too small.

This module measures nothing. Each host loads one shard after the other, as `laion-assets load` does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from laion_assets.index.parameters import IndexParameters
from laion_assets.machine import Machine
from laion_assets.plan.bandwidth import Bandwidth
from laion_assets.plan.calibration import SHARD_STAGES
from laion_assets.plan.index_cost import IndexCosts
from laion_assets.plan.load_plan import DiskUse, IndexChoice, LoadPlan, MemoryUse, PlannedShard, StageCost
from laion_assets.plan.model import LEAST_ERROR, RECALL_ABOVE, Model
from laion_assets.plan.recall_cost import RecallCost
from laion_assets.plan.sizes import ShardSize
from laion_assets.settings import Settings
from laion_assets.table.schema import PartitionState
from laion_assets.words import size as told

OTHER_PARAMETERS = tuple(IndexParameters(name, 16, 64) for name in ("bf16", "i8", "b1"))
"""The parameters of smaller indexes that a plan shows beside those that are asked for."""


def make_plan(
    model: Model,
    sizes: Sequence[ShardSize],
    loaded: Sequence[PartitionState],
    bandwidth: Bandwidth,
    *,
    free_bytes: int,
    hosts: int = 1,
    already: Sequence[int] = (),
) -> LoadPlan:
    """The plan for shards of these sizes in addition to the `loaded` ones, distributed over `hosts` equal machines.

    Loaded partitions without graphs are planned for the index as well, on the first host. The index is the one that
    LAION_INDEX asks for.
    """
    index = IndexCosts(model)
    shards = [_planned(model, index, size, bandwidth) for size in sizes]
    # The host with most to do gets every hosts-th shard, beginning with the largest.
    share = sorted(shards, key=lambda shard: -shard.rows)[::hosts]
    error = model.stage_error(max((shard.rows for shard in share), default=0))
    # The error is a factor either way: a machine that was busy may be many times as fast, but no load takes 0 s.
    below = error / (1 + error)
    stages = {name: replace(_shard_stage(name, shards, share), below=below, above=error) for name in SHARD_STAGES}
    stages |= _table_stages(model, index, shards, share, loaded, hosts)
    rows_here = sum(shard.rows for shard in share) + sum(state.rows for state in loaded)
    parts_here = len(share) + len(loaded)
    memory = _memory(model, index, share, loaded, rows_here, parts_here)
    rows = sum(shard.rows for shard in shards) + sum(state.rows for state in loaded)
    plan = LoadPlan(
        made_at=time.time(),
        dataset=model.settings.dataset.name,
        hosts=hosts,
        shards=shards,
        already=sorted(already),
        index_rows=(sum(size.rows for size in sizes) + sum(state.rows for state in loaded if not state.index_bytes))
        * (index.graphs or index.cells),
        fetch_bytes=sum(shard.raw_bytes for shard in shards),
        bandwidth=bandwidth,
        stages=stages,
        disks=_disks(model.settings, share),
        free_bytes=free_bytes,
        memory=memory,
        choices=[
            _choice(model, parameters, rows, parts_here * hosts) for parameters in OTHER_PARAMETERS * index.graphs
        ],
        search_seconds=index.search_seconds(rows_here, parts_here),
        exact_seconds=model.exact_seconds(rows_here),
        calibrated=str(model.calibration),
        calibrated_here=model.calibration.is_of(model.settings),
        index_measured_rows=model.calibration.indexes[-1].rows,
        table_rows=rows_here,
        table_parts=parts_here,
    )
    plan.warnings.extend(_warnings(model, plan))
    if index.cells:
        codes = index.codes_bytes(rows_here, parts_here)
        plan.warnings.append(
            f"LAION_INDEX={model.settings.index}: the time of cells is projected, not measured here. Their codes take "
            f"{told(codes)} a host, and those that do not fit into its memory are read from disk."
        )
    return plan


def _planned(model: Model, index: IndexCosts, size: ShardSize, bandwidth: Bandwidth) -> PlannedShard:
    seconds = {name: model.stage_seconds(name, size.rows) for name in SHARD_STAGES}
    seconds["fetch"] += bandwidth.seconds(size.raw_bytes)
    return PlannedShard(
        shard=size.shard,
        rows=size.rows,
        origin=size.origin,
        raw_bytes=size.raw_bytes,
        raw_disk_bytes=size.raw_bytes if bandwidth.copies else 0,
        merged_bytes=model.merged_bytes(size.rows),
        table_bytes=model.table_bytes(size.rows) if _embedded(model.settings) else 0,
        index_bytes=index.disk_bytes(size.rows) if _embedded(model.settings) else 0,
        seconds=seconds,
        core_seconds={name: model.stage_core_seconds(name, size.rows) for name in SHARD_STAGES},
    )


def _shard_stage(name: str, shards: list[PlannedShard], share: list[PlannedShard]) -> StageCost:
    return StageCost(
        sum(shard.seconds[name] for shard in share),
        sum(shard.core_seconds[name] for shard in shards),
    )


def _table_stages(
    model: Model,
    index: IndexCosts,
    shards: list[PlannedShard],
    share: list[PlannedShard],
    loaded: Sequence[PartitionState],
    hosts: int,
) -> dict[str, StageCost]:
    """The index of every partition that lacks it, then one recall report for each host."""
    lacking = [state.rows for state in loaded if not state.index_bytes]
    here, everywhere = ([*(shard.rows for shard in each), *lacking] for each in (share, shards))
    rows = sum(shard.rows for shard in share) + sum(state.rows for state in loaded)
    parts = len(share) + len(loaded)
    recall = RecallCost(model).seconds(rows, parts)
    return {
        "index": index.stage(here, everywhere, rows, parts, hosts),
        "recall": StageCost(recall, recall * hosts, LEAST_ERROR, RECALL_ABOVE),
    }


def _disks(settings: Settings, share: list[PlannedShard]) -> list[DiskUse]:
    """Disk use for each way of keeping files. With a store in a bucket, files are on the disk while a step works on
    them, and are kept in the bucket."""
    found = []
    for raw in (False, True):
        for merged in (True, False):
            kept = sum(shard.raw_bytes * raw + shard.merged_bytes * merged for shard in share)
            peak, rest = _disk(share, raw and not settings.store, merged and not settings.store)
            chosen = (raw, merged) == (settings.keep_raw, settings.keep_merged)
            found.append(DiskUse(raw, merged, peak, rest, chosen, kept if settings.store else 0))
    return found


def _disk(share: list[PlannedShard], keep_raw: bool, keep_merged: bool) -> tuple[int, int]:
    """Bytes at the peak and after the load. While a shard is loaded, its staging table holds its rows twice for a
    moment: as inserted, and as one part. The worst case is that the largest shard comes last."""
    most = rest = index = 0
    for shard in share:
        kept = shard.raw_disk_bytes * keep_raw + shard.merged_bytes * keep_merged + shard.table_bytes
        loading = shard.raw_disk_bytes * keep_raw + shard.merged_bytes + 2 * shard.table_bytes
        most = max(most, max(shard.raw_disk_bytes + shard.merged_bytes, loading) - kept)
        rest += kept
        index += shard.index_bytes
    return max(rest + most, rest + index), rest + index


def _memory(
    model: Model,
    index: IndexCosts,
    share: list[PlannedShard],
    loaded: Sequence[PartitionState],
    rows_here: int,
    parts_here: int,
) -> MemoryUse:
    largest = max((shard.rows for shard in share), default=0)
    lacking = max((state.rows for state in loaded if not state.index_bytes), default=0)
    return MemoryUse(
        load_bytes=model.shard_peak_bytes(largest),
        index_build_bytes=index.build_bytes(max(largest, lacking)),
        graphs_bytes=index.graph_bytes(rows_here),
        cache_bytes=index.cache_bytes(rows_here, parts_here),
        machine_bytes=Machine.here().memory_bytes,
    )


def _choice(model: Model, parameters: IndexParameters, rows: int, parts: int) -> IndexChoice:
    dataset = model.settings.dataset
    vectors = rows * len(dataset.vector_columns)
    ratio = parameters.core_seconds(1, 512) / model.parameters.core_seconds(1, 512)
    cores = parts * model.index_core_seconds(rows // max(parts, 1)) * ratio
    return IndexChoice(str(parameters), round(vectors * parameters.bytes_a_vector(dataset.dimension)), cores)


def _warnings(model: Model, plan: LoadPlan) -> list[str]:
    """Which resources are too small, and what to do about it."""
    found = []
    chosen = next(disk for disk in plan.disks if disk.chosen)
    if chosen.peak_bytes > plan.free_bytes:
        enough = [disk for disk in plan.disks if disk.peak_bytes <= plan.free_bytes]
        way = "keep fewer files" if enough else "more disk, more hosts or fewer shards are needed"
        needed = f"the load needs {told(chosen.peak_bytes)} at its peak, {told(plan.free_bytes)} are free"
        found.append(f"Not enough disk: {needed}; {way}.")
    memory = plan.memory
    most = max(memory.load_bytes, memory.index_build_bytes)
    if most > 0.9 * memory.machine_bytes:
        found.append(f"Not enough memory: a step needs {told(most)}, the machine has {told(memory.machine_bytes)}.")
    if memory.graphs_bytes > 0.8 * memory.machine_bytes:
        found.append(
            f"Not enough memory to search by the index: its graphs take {told(memory.graphs_bytes)} a host, the "
            f"machine has {told(memory.machine_bytes)}; other parameters or more hosts are needed (docs/scaling.md)."
        )
    elif _embedded(model.settings) and memory.cache_bytes > model.settings.index_cache_bytes:
        found.append(
            f"Set LAION_INDEX_CACHE_BYTES to {memory.cache_bytes} at least: the graphs of all partitions are read from "
            "disk again and again otherwise."
        )
    if plan.bandwidth.bytes_per_second is None:
        found.append(f"The time to fetch is left out: bandwidth is {plan.bandwidth.how}. --bandwidth gives one.")
    estimated = sum(shard.origin == "estimated" for shard in plan.shards)
    if estimated:
        found.append(
            f"The sizes of {estimated} shards are estimated, not known: --ask asks the source, and reads npy headers."
        )
    if not plan.calibrated_here:
        found.append(
            "Times and memory are those of another machine, version or setting: laion-assets plan measures them here."
        )
    if not _embedded(model.settings):
        found.append(
            "Times of load and index are of the embedded engine here, not of the server; its disk is left out."
        )
    return found


def _embedded(settings: Settings) -> bool:
    return settings.clickhouse_url.get_secret_value().startswith("chdb:")
