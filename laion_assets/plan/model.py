"""The cost of any shard, index and search, from a calibration. It knows no set of shards and no host.

- A stage of a shard's run has a fixed cost and a cost for each row: the line through two measured shards.
- Building an HNSW graph of n vectors takes about n·log n steps, and more of them miss the processor's caches as the
  graph grows. So core seconds a vector are modelled as powers of n through three measured parts. Where the graph
  outgrows the caches, they grow fastest: on an AMD EPYC with 32 MB of cache (M 64, ClickHouse 26.9) they took 0.33,
  0.48, 0.84, 1.43 and 2.34 ms in parts of 2,000, 8,000, 16,000, 32,000 and 64,000 vectors. On a Xeon 0.31, 0.64, 1.7
  and 4.1 ms in parts of 2,000, 8,000, 34,000 and 200,000. So the power between the last two parts holds for
  `STEEP_DOUBLINGS` more, and then the power between the first and the last.
- A search by the index has a fixed cost and a cost for each part, whatever the rows; an exact search has a fixed cost
  and a cost for each row. The searches of a recall report: see recall_cost.py.
- Peak memory of merge and load grows with rows up to `FLAT_ROWS`, and is constant above.
- Costs a row were measured with two vectors of 512 elements; other costs are scaled by the number of elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from laion_assets.index.parameters import IndexParameters
from laion_assets.plan.calibration import Calibration, IndexCost, ShardCost
from laion_assets.settings import Settings
from laion_assets.table.inserting import INSERT_THREADS, PART_ROWS

FLAT_ROWS = 2 * INSERT_THREADS * PART_ROWS
"""Rows above which a load's memory is constant: each thread of the insert writes one part and collects another."""

CALIBRATED_VALUES = 2 * 512
"""Elements of a row's vectors in the calibration."""

LEAST_ERROR = 0.2
"""The least error of a stage, as a fraction: a load of 10 shards took 19 % more than planned (docs/scaling.md)."""

UNCHECKED_ERROR = 0.25
"""The error added for a calibration of another machine, and the least error of one without a third measurement, since
its figures do not tell their error."""

ERROR_A_DOUBLING = 0.03
"""The error added for each doubling of the rows beyond those measured. It is an assumption."""

STEEP_DOUBLINGS = 2
"""Doublings beyond the largest measured part for which the cost of a vector grows as between the last two."""

EASIER_A_DOUBLING = 0.11
"""How far an index may be below its plan for each such doubling. The sample's vectors are harder than CLIP's: for
LAION-400M, 6 doublings on, a plan says 2,400 core hours, but the measured cost of a part of a million CLIP-like vectors
gives 352 (docs/scaling.md)."""

RECALL_ABOVE = 0.5
"""The error of a recall report: one took 1,367 s where its plan said 932 (docs/scaling.md)."""


@dataclass(frozen=True)
class Line:
    """A fixed cost and a cost for each unit, neither below 0."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> Line:
        """Through two points (x, y). If the line would start below 0, it goes through 0 and the larger point."""
        (x0, y0), (x1, y1) = small, large
        slope = max(0.0, (y1 - y0) / (x1 - x0))
        fixed = y1 - slope * x1
        return cls(fixed, slope) if fixed >= 0 else cls(0.0, y1 / x1)

    def at(self, x: float) -> float:
        """The line's value at `x`."""
        return self.fixed + self.slope * x


@dataclass(frozen=True)
class Model:
    """The costs by one calibration under these settings. Seconds are for one shard after the other on one machine."""

    calibration: Calibration
    settings: Settings

    @cached_property
    def scale(self) -> float:
        """Elements of a row's vectors, as a multiple of those in the calibration."""
        dataset = self.settings.dataset
        return dataset.dimension * len(dataset.vector_columns) / CALIBRATED_VALUES

    @cached_property
    def parameters(self) -> IndexParameters:
        """The parameters that the indexes will have."""
        return IndexParameters.of(self.settings)

    def stage_seconds(self, stage: str, rows: int) -> float:
        """Wall seconds of one of `SHARD_STAGES` for a shard, without the transfer of its files."""
        return self._of_shard(lambda cost: cost.seconds[stage], rows)

    def stage_core_seconds(self, stage: str, rows: int) -> float:
        """Core seconds of the same stage."""
        return self._of_shard(lambda cost: cost.core_seconds[stage], rows)

    def stage_error(self, rows: int) -> float:
        """How far the seconds of a shard's stages may be off, as a fraction: by as much as the line missed the third
        shard, at least `LEAST_ERROR`, and more for each doubling beyond the largest shard that was measured."""
        between, largest = self.calibration.shards[1:-1], self.calibration.shards[-1].rows
        missed = UNCHECKED_ERROR
        if between:
            missed = abs(self._of_measured(between[0]) / sum(between[0].seconds.values()) - 1)
        return max(missed, LEAST_ERROR) + ERROR_A_DOUBLING * _doublings(rows, largest) + self._elsewhere

    def index_error(self, rows: int) -> tuple[float, float]:
        """How far the time of an index may be below and above its plan for parts of `rows` rows, as fractions.

        Below, it may be as far off as the power between the first and the last part is below the plan.
        """
        indexes = self._indexes
        last = indexes[-1]
        below = above = LEAST_ERROR if len(indexes) > 2 else UNCHECKED_ERROR
        if rows > last.rows:
            below = max(below, 1 - _through(indexes[0], last, rows) / self.core_seconds_a_vector(rows))
        further = _doublings(rows, last.rows)
        below = min(0.9, below + EASIER_A_DOUBLING * further + self._elsewhere)
        return below, above + ERROR_A_DOUBLING * further + self._elsewhere

    @property
    def _elsewhere(self) -> float:
        return 0.0 if self.calibration.is_of(self.settings) else UNCHECKED_ERROR

    def _of_measured(self, cost: ShardCost) -> float:
        return self._line(lambda one: sum(one.seconds.values())).at(cost.rows)

    def merged_bytes(self, rows: int) -> int:
        """Bytes of a shard's merged file."""
        return round(self._of_shard(lambda cost: float(cost.merged_bytes), rows))

    def table_bytes(self, rows: int) -> int:
        """Bytes of a shard's partition without indexes."""
        return round(self._of_shard(lambda cost: float(cost.table_bytes), rows))

    def shard_peak_bytes(self, rows: int) -> int:
        """Resident memory of the process that runs a shard, at its largest stage."""
        ends = self.calibration.shards[0], self.calibration.shards[-1]
        small, large = ((min(cost.rows, FLAT_ROWS), max(cost.peak_bytes.values())) for cost in ends)
        return round(Line.through(small, large).at(min(rows, FLAT_ROWS) * self.scale))

    def index_bytes(self, rows: int) -> int:
        """Bytes of both graphs over `rows` rows, on disk and in memory, by the formula of index/parameters.py."""
        dataset = self.settings.dataset
        return round(rows * len(dataset.vector_columns) * self.parameters.bytes_a_vector(dataset.dimension))

    def index_core_seconds(self, rows: int) -> float:
        """Core seconds to build both graphs of one part."""
        if not rows:
            return 0.0
        return 2 * rows * self.core_seconds_a_vector(rows) * self.scale * self._other_parameters

    def index_seconds(self, rows: int) -> float:
        """Wall time of the same build: a fixed time a part, then as many cores work as in the calibration."""
        small, large = self.calibration.indexes[0], self.calibration.indexes[-1]
        cores_used = large.core_seconds / large.seconds
        fixed = max(0.0, (small.seconds - small.core_seconds / cores_used) / small.parts)
        return fixed + self.index_core_seconds(rows) / cores_used

    def index_peak_bytes(self, largest_part: int) -> int:
        """Resident memory while both graphs of the largest part are built, including the rest of the process."""
        base = min(cost.peak_bytes - _graph_bytes(cost) for cost in self.calibration.indexes)
        return round(max(0.0, base)) + self.index_bytes(largest_part)

    def search_seconds(self, parts: int) -> float:
        """Seconds of one search by the index."""
        one, many = self.calibration.searches
        return Line.through((one.parts, one.search), (many.parts, many.search)).at(parts)

    def exact_seconds(self, rows: int) -> float:
        """Seconds of one exact search."""
        few, many = self.calibration.exact
        return Line.through((few.rows, few.seconds), (many.rows, many.seconds)).at(rows * self.scale)

    def core_seconds_a_vector(self, rows: float) -> float:
        """Core seconds to build the graph of a part of `rows` rows, for each vector, with the calibration's parameters.

        It goes through all measured parts, and never falls.
        """
        indexes = self._indexes
        for small, large in pairwise(indexes):
            if rows <= large.rows:
                return _through(small, large, rows)
        steep = min(rows, indexes[-1].rows * 2**STEEP_DOUBLINGS)
        beyond = float((rows / steep) ** _power(indexes[0], indexes[-1]))
        return _through(indexes[-2], indexes[-1], steep) * beyond

    @cached_property
    def _indexes(self) -> list[IndexCost]:
        """The measured parts. One that was measured cheaper a vector than a smaller one counts as dear as that."""
        found: list[IndexCost] = []
        for cost in self.calibration.indexes:
            least = _a_vector(found[-1]) * 2 * cost.rows * cost.parts if found else 0.0
            found.append(replace(cost, core_seconds=max(cost.core_seconds, least)))
        return found

    @cached_property
    def _other_parameters(self) -> float:
        """The cost of the wanted parameters, as a multiple of the calibration's: 1 if they are the same."""
        return self.parameters.core_seconds(1, 512) / self.calibration.index.core_seconds(1, 512)

    def _of_shard(self, value: Callable[[ShardCost], float], rows: int) -> float:
        line = self._line(value)
        return line.fixed + line.slope * rows * self.scale

    def _line(self, value: Callable[[ShardCost], float]) -> Line:
        small, large = self.calibration.shards[0], self.calibration.shards[-1]
        return Line.through((small.rows, value(small)), (large.rows, value(large)))


def _doublings(rows: int, measured: int) -> float:
    return math.log2(max(1.0, rows / measured))


def _a_vector(cost: IndexCost) -> float:
    return cost.core_seconds / (2 * cost.rows * cost.parts)


def _power(small: IndexCost, large: IndexCost) -> float:
    """The power of n by which the cost of a vector grows from one part to the other; not below 0."""
    return max(0.0, math.log(_a_vector(large) / _a_vector(small)) / math.log(large.rows / small.rows))


def _through(small: IndexCost, large: IndexCost, rows: float) -> float:
    """The cost of a vector in a part of `rows` rows, by the power through two measured parts."""
    return float(_a_vector(small) * (rows / small.rows) ** _power(small, large))


def _graph_bytes(cost: IndexCost) -> float:
    return 2 * cost.rows * cost.memory_bytes_a_vector
