"""A plan in figures: its shards, stages, disks and memory. `make_plan` computes them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from laion_assets.plan.bandwidth import Bandwidth
from laion_assets.plan.calibration import SHARD_STAGES

STAGES = (*SHARD_STAGES, "index", "recall")


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard: rows, bytes of its files in each place, seconds and core seconds of each of `SHARD_STAGES`.

    `raw_bytes` are to be fetched. `raw_disk_bytes` are the bytes that they take in the store, 0 if they are linked.
    """

    shard: int
    rows: int
    origin: str
    raw_bytes: int
    raw_disk_bytes: int
    merged_bytes: int
    table_bytes: int
    index_bytes: int
    seconds: dict[str, float]
    core_seconds: dict[str, float]


@dataclass(frozen=True)
class StageCost:
    """One stage over the whole load: wall seconds of the host with most to do, core seconds of all hosts, and by which
    fraction the seconds may be less (`below`) or more (`above`)."""

    seconds: float
    core_seconds: float
    below: float = 0.0
    above: float = 0.0

    @property
    def range_seconds(self) -> tuple[float, float]:
        """The least and the most wall seconds."""
        return self.seconds * max(0.0, 1 - self.below), self.seconds * (1 + self.above)


@dataclass(frozen=True)
class DiskUse:
    """Bytes that the load adds on the disk of the host with most to do, at the peak and when all is done, including the
    index; and in the bucket of LAION_STORE, if there is one.

    `chosen` marks the way that the settings ask for.
    """

    keep_raw: bool
    keep_merged: bool
    peak_bytes: int
    rest_bytes: int
    chosen: bool
    bucket_bytes: int = 0


@dataclass(frozen=True)
class IndexChoice:
    """The cost of other index parameters for all rows that will be loaded, on all hosts together."""

    parameters: str
    memory_bytes: int
    core_seconds: float


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of resident memory on the host with most to do: while a shard is loaded, while the largest partition is
    indexed, and for all graphs when they are searched, by size and as the index cache counts them."""

    load_bytes: int
    index_build_bytes: int
    graphs_bytes: int
    cache_bytes: int
    machine_bytes: int


@dataclass(frozen=True)
class LoadPlan:
    """A plan. `shards` are to be loaded. `already` are in the table, so they are left out. `index_rows` are the rows of
    all partitions that will be indexed, `index_measured_rows` those of the largest part that was measured.

    `table_rows` and `table_parts` are those of the table after the load, on the host with most rows. The shards of a
    `withdrawn` plan are not asked for any more: the load was stopped, or another one took its place.
    """

    made_at: float
    dataset: str
    hosts: int
    shards: list[PlannedShard]
    already: list[int]
    index_rows: int
    fetch_bytes: int
    bandwidth: Bandwidth
    stages: dict[str, StageCost]
    disks: list[DiskUse]
    free_bytes: int
    memory: MemoryUse
    choices: list[IndexChoice]
    search_seconds: float
    exact_seconds: float
    calibrated: str
    calibrated_here: bool
    index_measured_rows: int = 0
    table_rows: int = 0
    table_parts: int = 0
    warnings: list[str] = field(default_factory=list)
    withdrawn: bool = False

    @property
    def rows(self) -> int:
        """Rows of the shards to be loaded."""
        return sum(shard.rows for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Wall time of all stages."""
        return sum(stage.seconds for stage in self.stages.values())

    @property
    def range_seconds(self) -> tuple[float, float]:
        """The least and the most wall time. If the machine differs from the plan, all stages are off the same way."""
        least, most = zip(*(stage.range_seconds for stage in self.stages.values()), strict=True)
        return sum(least), sum(most)

    def as_json(self) -> dict[str, object]:
        """The plan as a JSON object."""
        return {
            **asdict(self),
            "rows": self.rows,
            "seconds": self.seconds,
            "range_seconds": self.range_seconds,
            "stages": {name: {**asdict(one), "range_seconds": one.range_seconds} for name, one in self.stages.items()},
        }
