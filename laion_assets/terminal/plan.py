"""`laion-assets plan`: what a load will cost, as tables in plain words; and a comparison afterwards. Loads nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from laion_assets.health.disk import free_bytes_of
from laion_assets.index.parameters import IndexParameters
from laion_assets.machine import Machine
from laion_assets.plan.bandwidth import TRIAL_SECONDS, Bandwidth, given_bandwidth, tried_bandwidth
from laion_assets.plan.calibration import (
    Calibration,
    calibration_path,
    read_calibration,
    reference_calibration,
)
from laion_assets.plan.kept_plan import Compared, keep_plan, plan_path
from laion_assets.plan.load_plan import LoadPlan
from laion_assets.plan.make_plan import make_plan
from laion_assets.plan.method_costs import Methods, method_costs
from laion_assets.plan.model import Model
from laion_assets.plan.sizes import is_folder, shard_sizes
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import PartitionState, partitions
from laion_assets.terminal.calibrate import calibrate
from laion_assets.words import between, duration, size, two_digits

STAGE_WORDS = {
    "fetch": "fetch the raw files",
    "merge": "merge them to one file",
    "load": "load the partition",
    "checks": "checks, and Dagster itself",
    "index": "build both indexes",
    "recall": "measure recall",
}


def plan_load(
    settings: Settings,
    shards: list[int],
    console: Console,
    *,
    hosts: int = 1,
    megabytes_per_second: float | None = None,
    ask: bool | None = None,
    recalibrate: bool = False,
) -> LoadPlan:
    """The plan for the missing `shards`, by a calibration of this machine, which is made if there is none.

    Raises `SourceError` if `ask` is true and no source answers, `TableError` if the table cannot be read.
    """
    with connect(settings) as db:
        loaded = partitions(db)
    calibration = None if recalibrate else read_calibration(calibration_path(settings))
    if calibration is None or not calibration.is_of(settings):
        calibration = _calibrate(settings, console)
    bandwidth = None if megabytes_per_second is None else given_bandwidth(megabytes_per_second)
    return _plan(settings, shards, loaded, calibration, bandwidth, hosts=hosts, ask=ask)


def keep_plan_for(settings: Settings, shards: list[int], loaded: Sequence[PartitionState]) -> LoadPlan:
    """Makes and keeps the plan of a load that begins, by an existing calibration: a load must not wait for a new
    one."""
    kept = read_calibration(calibration_path(settings))
    calibration = kept if kept is not None and kept.is_of(settings) else reference_calibration()
    bandwidth = None if is_folder(settings) else Bandwidth(None, "not tried when a load begins")
    plan = _plan(settings, shards, loaded, calibration, bandwidth, trial_seconds=1.0)
    keep_plan(plan, plan_path(settings))
    return plan


def _plan(
    settings: Settings,
    shards: list[int],
    loaded: Sequence[PartitionState],
    calibration: Calibration,
    bandwidth: Bandwidth | None,
    *,
    hosts: int = 1,
    ask: bool | None = None,
    trial_seconds: float = TRIAL_SECONDS,
) -> LoadPlan:
    rows = {state.shard: state.rows for state in loaded}
    missing = [shard for shard in shards if shard not in rows]
    typical = sum(rows.values()) // len(rows) if rows else None
    sizes = shard_sizes(settings, missing, ask=ask, typical_rows=typical)
    if bandwidth is None:
        nothing = Bandwidth(0.0, "not needed: nothing is missing")
        bandwidth = tried_bandwidth(settings, missing[0], trial_seconds) if missing else nothing
    return make_plan(
        Model(calibration, settings),
        sizes,
        loaded,
        bandwidth,
        free_bytes=free_bytes_of(settings.data_dir),
        hosts=hosts,
        already=[shard for shard in shards if shard in rows],
    )


def _calibrate(settings: Settings, console: Console) -> Calibration:
    with console.status("measuring what this machine takes: sample shards, indexes, searches (about a minute)"):
        return calibrate(settings)


def print_plan(plan: LoadPlan, console: Console) -> None:
    """Prints the plan as tables, then its warnings."""
    hosts = f" on {plan.hosts} hosts" if plan.hosts > 1 else ""
    console.print(f"[bold]{len(plan.shards)} shards of {plan.dataset}, {plan.rows:,} rows{hosts}", highlight=False)
    if plan.already:
        console.print(f"{len(plan.already)} of the shards asked for are loaded, and are not in the plan")
    console.print(f"to fetch: {size(plan.fetch_bytes)}; bandwidth: {plan.bandwidth.how}", highlight=False, markup=False)
    console.print(_stages_table(plan))
    index, measured = plan.stages["index"], f"{plan.index_measured_rows:,}"
    console.print(
        f"the index is extrapolated from parts of {measured} rows: {index.below:.0%} less or {index.above:.0%} more",
        highlight=False,
    )
    console.print(_disk_table(plan))
    console.print(_memory_table(plan))
    console.print(
        f"a search by the index: about {duration(plan.search_seconds)} while the graphs fit in memory; an exact "
        f"one: about {duration(plan.exact_seconds)}. Measured {plan.calibrated}.",
        highlight=False,
        markup=False,
    )
    for warning in plan.warnings:
        console.print(f"! {warning}", style="yellow", markup=False, highlight=False)


def print_methods(settings: Settings, plan: LoadPlan, console: Console) -> None:
    """Prints what each method of searching takes, and which one fits this machine."""
    methods = methods_of(settings, plan)
    each = " of a host" if plan.hosts > 1 else ""
    title = f"ways to search all {plan.table_rows:,} rows{each} after this load: what each takes beside the table"
    table = Table("--method", "memory", "disk", "core hours", "a search", "how sure", title=title)
    for column in table.columns[1:5]:
        column.justify = "right"
    for one in methods.costs:
        latency = "see docs" if one.seconds is None else duration(one.seconds)
        name = f"[bold]{one.name}" if one.name == methods.named else one.name
        table.add_row(name, size(one.memory_bytes), size(one.disk_bytes), two_digits(one.core_hours), latency, one.sure)
    console.print(table)
    console.print(f"for this machine: {methods.named}, since {methods.reason}", markup=False, highlight=False)


def methods_of(settings: Settings, plan: LoadPlan) -> Methods:
    """What each method of searching takes on this machine, for all rows that a host's table has after the load."""
    dataset, machine = settings.dataset, Machine.here()
    return method_costs(
        plan.table_rows,
        len(dataset.vector_columns),
        dataset.dimension,
        IndexParameters.of(settings),
        partitions=plan.table_parts,
        cores=machine.cores,
        memory=machine.memory_bytes,
    )


def _stages_table(plan: LoadPlan) -> Table:
    each = " (a host)" if plan.hosts > 1 else ""
    table = Table("stage", f"wall time{each}", "between", "core hours", title="time, one shard after the other")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, cost in plan.stages.items():
        table.add_row(
            STAGE_WORDS[name], duration(cost.seconds), between(cost.range_seconds), two_digits(cost.core_seconds / 3600)
        )
    cores = sum(cost.core_seconds for cost in plan.stages.values())
    whole = duration(plan.seconds), between(plan.range_seconds), two_digits(cores / 3600)
    table.add_row("[bold]all", *(f"[bold]{cell}" for cell in whole))
    return table


def _disk_table(plan: LoadPlan) -> Table:
    title = f"disk of {'each host' if plan.hosts > 1 else 'the store'}: {size(plan.free_bytes)} free here"
    table = Table("LAION_KEEP_RAW", "LAION_KEEP_MERGED", "at the peak", "at rest, indexes too", "", title=title)
    for disk in plan.disks:
        fits = "" if disk.peak_bytes <= plan.free_bytes else "[red]does not fit"
        bucket = f"and {size(disk.bucket_bytes)} in the bucket" if disk.bucket_bytes else ""
        words = ", ".join(word for word in ("as set" if disk.chosen else "", bucket, fits) if word)
        names = (str(kept).lower() for kept in (disk.keep_raw, disk.keep_merged))
        table.add_row(*names, size(disk.peak_bytes), size(disk.rest_bytes), words)
    return table


def _memory_table(plan: LoadPlan) -> Table:
    memory = plan.memory
    table = Table("memory", "", title=f"memory: {size(memory.machine_bytes)} here")
    table.columns[1].justify = "right"
    table.add_row("to load a shard", size(memory.load_bytes))
    table.add_row("to index a partition", size(memory.index_build_bytes))
    table.add_row("all graphs, to search by the index", size(memory.graphs_bytes))
    for choice in plan.choices:
        core_hours = f"{two_digits(choice.core_seconds / 3600)} core hours"
        table.add_row(f"– of all hosts, with {choice.parameters}", f"{size(choice.memory_bytes)}, {core_hours}")
    return table


def comparison_table(compared: Sequence[Compared]) -> Table:
    """The planned and the actual figures."""
    table = Table("", "planned", "actual", "plan's error", title="the plan of the last load against what happened")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in compared:
        table.add_row(one.name, *shown(one), f"{one.error:+.0%}")
    return table


def shown(compared: Compared) -> tuple[str, str]:
    """The planned and the actual figure, in words."""
    say = duration if compared.unit == "s" else size
    return say(compared.planned), say(compared.actual)
