"""From a calibration to the cost of any shard, index and search. It knows no set of shards and no host.

- A stage of a shard's run is a fixed cost and one a row: the line through two measured shards.
- Building an HNSW graph of n vectors takes about n·log n steps, and more of them miss the processor's caches as it
  grows: core seconds a vector are taken as a power of n through two measured parts. From parts of 2,000 and 8,000
  vectors (M 64, ClickHouse 26.9) it is 18 % below what parts of 34,000 took and 20 % below one of 200,000; a line in
  log n was 42 % and 67 % below.
- Rescoring reads the granules of its candidates, of a small table nearly all: that costs as much as to scan those rows.
- A search by the index is a fixed cost and one a part, whatever the rows; an exact one is a fixed cost and one a row.
- Peak memory of merge and load grows with rows up to `FLAT_ROWS`, and then no more.
- Costs a row were measured with two vectors of 512 elements; others are scaled by their elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from laion_assets.index.parameters import IndexParameters
from laion_assets.plan.calibration import Calibration, IndexCost, ShardCost
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.recall_plan import EXACT_SEARCHES, searches_a_kind
from laion_assets.settings import Settings
from laion_assets.table.inserting import INSERT_THREADS, PART_ROWS

FLAT_ROWS = 2 * INSERT_THREADS * PART_ROWS
"""Of a load: each thread of the insert has one part that it writes and one that it gathers."""

CALIBRATED_VALUES = 2 * 512
"""Elements of a row's vectors in the calibration."""

LEAST_ERROR = 0.2
"""As a share: a load of 10 shards took 19 % more by its caller's clock than its plan said (docs/scaling.md)."""

UNCHECKED_ERROR = 0.25
"""Added for a calibration of another machine, and the least of one without a third measurement: its figures say nothing
of their error."""

ERROR_A_DOUBLING = 0.03
"""Added for each doubling of the rows beyond what was measured: an assumption, three times what showed between parts of
34,000 and 200,000 rows (18 % and 20 % below what they took)."""

EASIER_A_DOUBLING = 0.11
"""What an index may be below its plan for each such doubling. The sample's vectors are harder than CLIP's: for
LAION-400M, 7 doublings on, a plan said 1,530 core hours where a part of a million CLIP-like vectors says 352
(docs/scaling.md)."""

RECALL_ABOVE = 0.45
"""A recall report took 1,083 s where its plan said 751 (docs/scaling.md)."""

QUERY_KINDS = {1: 2, 2: 6}
"""Kinds of query that a recall report asks, by vector columns."""


@dataclass(frozen=True)
class Line:
    """A fixed cost and one a unit, neither below 0."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, small: tuple[float, float], large: tuple[float, float]) -> Line:
        """Through two points (x, y); where it would start below 0 it starts at 0 and meets the large one."""
        (x0, y0), (x1, y1) = small, large
        slope = max(0.0, (y1 - y0) / (x1 - x0))
        fixed = y1 - slope * x1
        return cls(fixed, slope) if fixed >= 0 else cls(0.0, y1 / x1)

    def at(self, x: float) -> float:
        """Its value."""
        return self.fixed + self.slope * x


@dataclass(frozen=True)
class Model:
    """The costs of one calibration under these settings. Seconds are of one shard after the other on one machine."""

    calibration: Calibration
    settings: Settings

    @cached_property
    def scale(self) -> float:
        """Elements of a row's vectors, as a multiple of the calibration's."""
        dataset = self.settings.dataset
        return dataset.dimension * len(dataset.vector_columns) / CALIBRATED_VALUES

    @cached_property
    def parameters(self) -> IndexParameters:
        """Those that the indexes will have."""
        return IndexParameters.of(self.settings)

    def stage_seconds(self, stage: str, rows: int) -> float:
        """Wall seconds of one of `SHARD_STAGES` for a shard, the transfer of its files left out."""
        return self._of_shard(lambda cost: cost.seconds[stage], rows)

    def stage_core_seconds(self, stage: str, rows: int) -> float:
        """Core seconds of the same."""
        return self._of_shard(lambda cost: cost.core_seconds[stage], rows)

    def stage_error(self, rows: int) -> float:
        """How far the seconds of a shard's stages may be off, as a share: as far as the line missed the third shard, at
        least `LEAST_ERROR`, and more for each doubling beyond the largest shard that was measured."""
        between, largest = self.calibration.shards[1:-1], self.calibration.shards[-1].rows
        missed = UNCHECKED_ERROR
        if between:
            missed = abs(self._of_measured(between[0]) / sum(between[0].seconds.values()) - 1)
        return max(missed, LEAST_ERROR) + ERROR_A_DOUBLING * _doublings(rows, largest) + self._elsewhere

    def index_error(self, rows: int) -> tuple[float, float]:
        """How far the time of an index may be below and above its plan for parts of so many rows, as shares.

        What the power of n missed the third part by counts on its side.
        """
        last = self.calibration.indexes[-1]
        below = above = LEAST_ERROR if len(self.calibration.indexes) > 2 else UNCHECKED_ERROR
        missed = _a_vector(last) / self._core_seconds_a_vector(last.rows) - 1
        below, above = max(below, -missed), max(above, missed)
        further = _doublings(rows, last.rows)
        below = min(0.9, below + EASIER_A_DOUBLING * further + self._elsewhere)
        return below, above + ERROR_A_DOUBLING * further + self._elsewhere

    @property
    def _elsewhere(self) -> float:
        return 0.0 if self.calibration.is_of(self.settings) else UNCHECKED_ERROR

    def _of_measured(self, cost: ShardCost) -> float:
        return self._line(lambda one: sum(one.seconds.values())).at(cost.rows)

    def merged_bytes(self, rows: int) -> int:
        """Of a shard's merged file."""
        return round(self._of_shard(lambda cost: float(cost.merged_bytes), rows))

    def table_bytes(self, rows: int) -> int:
        """Of a shard's partition without indexes."""
        return round(self._of_shard(lambda cost: float(cost.table_bytes), rows))

    def shard_peak_bytes(self, rows: int) -> int:
        """Resident memory of the process that runs a shard, at its largest stage."""
        ends = self.calibration.shards[0], self.calibration.shards[-1]
        small, large = ((min(cost.rows, FLAT_ROWS), max(cost.peak_bytes.values())) for cost in ends)
        return round(Line.through(small, large).at(min(rows, FLAT_ROWS) * self.scale))

    def index_bytes(self, rows: int) -> int:
        """Of both graphs over so many rows, on disk and in memory: index/graphs.py's formula."""
        dataset = self.settings.dataset
        return round(rows * len(dataset.vector_columns) * self.parameters.bytes_a_vector(dataset.dimension))

    def index_core_seconds(self, rows: int) -> float:
        """Of building both graphs of one part."""
        if not rows:
            return 0.0
        return 2 * rows * self._core_seconds_a_vector(rows) * self.scale * self._other_parameters

    def index_seconds(self, rows: int) -> float:
        """Wall time of the same: as many cores work as did in the calibration, after a fixed time a part."""
        small, large = self.calibration.indexes[:2]
        cores_used = large.core_seconds / large.seconds
        fixed = max(0.0, (small.seconds - small.core_seconds / cores_used) / small.parts)
        return fixed + self.index_core_seconds(rows) / cores_used

    def index_peak_bytes(self, largest_part: int) -> int:
        """Resident memory while the graphs of the largest part are built: both, and what the process has besides."""
        base = min(cost.peak_bytes - _graph_bytes(cost) for cost in self.calibration.indexes)
        return round(max(0.0, base)) + self.index_bytes(largest_part)

    def search_seconds(self, parts: int) -> float:
        """One search by the index."""
        one, many = self.calibration.searches
        return Line.through((one.parts, one.search), (many.parts, many.search)).at(parts)

    def exact_seconds(self, rows: int) -> float:
        """One exact search."""
        few, many = self.calibration.exact
        return Line.through((few.rows, few.seconds), (many.rows, many.seconds)).at(rows * self.scale)

    def recall_seconds(self, rows: int, parts: int) -> float:
        """A recall report: true neighbours of all its queries, then half of the queries at every search setting."""
        if not rows:
            return 0.0
        one, many = self.calibration.searches
        at_10, at_100 = searches_a_kind(self.settings.recall_queries, len(DEFAULT_GRID))
        kinds = QUERY_KINDS[len(self.settings.dataset.vector_columns)]
        search = Line.through((one.parts, one.report_search), (many.parts, many.report_search)).at(parts)
        true_neighbours = max(cost.true_neighbours / cost.rows for cost in (one, many)) * rows * self.scale
        seconds = true_neighbours + kinds * EXACT_SEARCHES * self.exact_seconds(rows)
        for setting in DEFAULT_GRID:
            for asked, answers in ((at_10, 10), (at_100, 100)):
                candidates = answers * setting.multiplier_for(answers)
                one_search = search + self._rescoring_seconds(rows, parts, candidates)
                seconds += kinds * asked / len(DEFAULT_GRID) * one_search
        return seconds

    def _rescoring_seconds(self, rows: int, parts: int, candidates: int) -> float:
        """Reading the granules that so many candidates of each part fall into, if they fall anywhere."""
        granules = max(1.0, rows / parts / self.settings.index_granularity)
        read = rows * (1 - (1 - 1 / granules) ** candidates)
        return self.exact_seconds(round(read)) - self.exact_seconds(0)

    def _core_seconds_a_vector(self, rows: int) -> float:
        """The power of n that meets both parts, and never falls."""
        small, large = self.calibration.indexes[:2]
        power = math.log(_a_vector(large) / _a_vector(small)) / math.log(large.rows / small.rows)
        return float(_a_vector(small) * (rows / small.rows) ** max(0.0, power))

    @cached_property
    def _other_parameters(self) -> float:
        """What the wanted parameters cost, as a multiple of the calibration's: 1 where they are the same."""
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


def _graph_bytes(cost: IndexCost) -> float:
    return 2 * cost.rows * cost.memory_bytes_a_vector
