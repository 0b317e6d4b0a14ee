"""The plan that was kept when a load began, and its comparison with the figures of the load."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from laion_assets.plan.bandwidth import Bandwidth
from laion_assets.plan.calibration import SHARD_STAGES
from laion_assets.plan.load_plan import (
    STAGES,
    DiskUse,
    IndexChoice,
    LoadPlan,
    MemoryUse,
    PlannedShard,
    StageCost,
)
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing

CORES_OF = {"steps": "fetch, merge and load", "index": "index"}


@dataclass(frozen=True)
class ActualFigures:
    """The figures of a plan's shards so far, of those that were loaded since the plan was made.

    `seconds` is by stage, with `index` and `recall` if they have run since. `core_seconds` are of fetch, merge and load
    together (`steps`), and of `index`; 0 if they were not recorded. `disk_bytes` is 0 if the table could not be read.
    `rows_indexed` are the rows that index runs built. `peak_bytes` is the most resident memory of `load` and of
    `index`.
    """

    shards: list[int]
    seconds: dict[str, float]
    core_seconds: dict[str, float]
    raw_bytes: int
    disk_bytes: int
    rows_indexed: int
    peak_bytes: dict[str, int]


@dataclass(frozen=True)
class Compared:
    """One figure of the plan for what was done so far, with the actual figure."""

    name: str
    planned: float
    actual: float
    unit: str

    @property
    def error(self) -> float:
        """The plan's error, as a fraction of the actual figure: 0.1 if the plan was a tenth too high."""
        return self.planned / self.actual - 1 if self.actual else 0.0


def plan_path(settings: Settings) -> Path:
    """The path of the plan of the last load in the store."""
    return settings.data_dir / "plan" / "plan.json"


def keep_plan(plan: LoadPlan, path: Path) -> None:
    """Writes the plan. Raises `StoreError`."""
    with replacing(path, subject="plan") as temporary:
        temporary.write_text(json.dumps(asdict(plan)), encoding="utf-8")


def read_plan(path: Path) -> LoadPlan | None:
    """The plan that was kept; None if there is none, or if its format is different."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return LoadPlan(
            **facts
            | {
                "shards": [PlannedShard(**shard) for shard in facts["shards"]],
                "bandwidth": Bandwidth(**facts["bandwidth"]),
                "stages": {name: StageCost(**cost) for name, cost in facts["stages"].items()},
                "disks": [DiskUse(**disk) for disk in facts["disks"]],
                "memory": MemoryUse(**facts["memory"]),
                "choices": [IndexChoice(**choice) for choice in facts["choices"]],
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def plan_in_force(settings: Settings) -> LoadPlan | None:
    """The kept plan if it is of this dataset and was not withdrawn."""
    plan = read_plan(plan_path(settings))
    return None if plan is None or plan.withdrawn or plan.dataset != settings.dataset.name else plan


def withdraw_plan(settings: Settings) -> None:
    """Notes that the shards of the kept plan are not asked for any more. Its figures stay for the comparison.

    Raises `StoreError`.
    """
    plan = read_plan(plan_path(settings))
    if plan is not None and not plan.withdrawn:
        keep_plan(replace(plan, withdrawn=True), plan_path(settings))


def compare(plan: LoadPlan, actual: ActualFigures, *, keep_raw: bool, keep_merged: bool) -> list[Compared]:
    """Each figure of the plan for the shards loaded since, with the actual figure; empty before the first shard."""
    done = [shard for shard in plan.shards if shard.shard in actual.shards]
    if not done:
        return []
    planned = {name: sum(shard.seconds[name] for shard in done) for name in SHARD_STAGES}
    indexed = actual.rows_indexed / plan.index_rows if plan.index_rows else 0.0
    planned["index"] = plan.stages["index"].seconds * plan.hosts * indexed
    planned["recall"] = plan.stages["recall"].seconds
    names = [name for name in STAGES if name in actual.seconds]
    found = [Compared(name, planned[name], actual.seconds[name], "s") for name in names]
    together = sum(planned[name] for name in names), sum(actual.seconds[name] for name in names)
    found.append(Compared("time", *together, "s"))
    cores = {
        "steps": sum(sum(shard.core_seconds.values()) - shard.core_seconds["checks"] for shard in done),
        "index": plan.stages["index"].core_seconds * indexed,
    }
    for name, spent in actual.core_seconds.items():
        if spent:
            found.append(Compared(f"core seconds of {CORES_OF[name]}", cores[name], spent, "s"))
    found.append(Compared("bytes of the source", sum(shard.raw_bytes for shard in done), actual.raw_bytes, "bytes"))
    rest = sum(shard.raw_disk_bytes * keep_raw + shard.merged_bytes * keep_merged + shard.table_bytes for shard in done)
    rest += round(sum(shard.index_bytes for shard in plan.shards) * min(indexed, 1.0))
    if actual.disk_bytes:
        found.append(Compared("disk", rest, actual.disk_bytes, "bytes"))
    peaks = {"load": plan.memory.load_bytes, "index": plan.memory.index_build_bytes}
    for name, peak in actual.peak_bytes.items():
        if peak:
            found.append(Compared(f"memory to {name}", peaks[name], peak, "bytes"))
    return found
