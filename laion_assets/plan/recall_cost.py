"""The time of a recall report, from a calibration: its true neighbours, and its searches by graphs at every setting.

A search at one of the report's settings costs a fixed time, and a time for each part, of which as many are searched at
once as there are cores. Rescoring comes on top: it reads the granules of its candidates, which in a small table are
nearly all granules. What a part costs depends on its rows n and on c(n), the core seconds a vector of building it:

- In a small part, a search at the larger values of ef_search reads the whole graph: n · c(n).
- In a larger part it reads a part of the graph. Measured with parts of 16,000, 32,000 and 64,000 vectors (M 64, 21
  settings, ClickHouse 26.9, AMD EPYC with 32 MB of cache) the cost grew as c(n)^0.6, where c(n) grew from 0.84 to 1.43
  and 2.34 ms.
"""

from __future__ import annotations

from laion_assets.plan.calibration import SearchCost
from laion_assets.plan.model import Model
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.recall_plan import EXACT_SEARCHES, searches_a_kind

QUERY_KINDS = {1: 2, 2: 6}
"""Kinds of query in a recall report, by the number of vector columns."""

WHOLE_GRAPH_ROWS = 16_000
"""Rows of a part up to which a search at the larger values of ef_search reads the whole graph."""

GROWTH = 0.6
"""The power of c(n) by which the cost of searching a larger part grows."""


class RecallCost:
    """The time of a recall report on the calibrated machine, by a model of the other costs."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._queries = searches_a_kind(model.settings.recall_queries, len(DEFAULT_GRID))
        self._cores = max(1, model.calibration.machine.cores)

    def seconds(self, rows: int, parts: int) -> float:
        """Seconds of a report of a table: true neighbours of all its queries, then half of them at every setting."""
        if not rows:
            return 0.0
        model, searches = self._model, self._model.calibration.searches
        kinds = QUERY_KINDS[len(model.settings.dataset.vector_columns)]
        true_neighbours = max(cost.true_neighbours / cost.rows for cost in searches) * rows * model.scale
        exact = kinds * EXACT_SEARCHES * model.exact_seconds(rows)
        return true_neighbours + exact + kinds * sum(self._queries) * self.search_seconds(rows, parts)

    def search_seconds(self, rows: int, parts: int) -> float:
        """Seconds of one search of the report, on average over its settings."""
        fixed, a_part = self._fixed_and_part()
        rounds = max(1.0, parts / self._cores)
        return fixed + rounds * a_part * self._relative(rows / max(parts, 1)) + self._rescoring(rows, parts)

    def _fixed_and_part(self) -> tuple[float, float]:
        """The fixed seconds of a search, and those of one part of `WHOLE_GRAPH_ROWS`: the two that agree with both
        measured tables. Neither is below 0."""
        one, many = self._model.calibration.searches
        (x0, y0), (x1, y1) = sorted((self._rounds(cost), self._plain(cost)) for cost in (one, many))
        a_part = max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0
        return max(0.0, y0 - a_part * x0), a_part

    def _rounds(self, cost: SearchCost) -> float:
        return max(1.0, cost.parts / self._cores) * self._relative(cost.rows / cost.parts)

    def _plain(self, cost: SearchCost) -> float:
        """The measured seconds of a search, without those of rescoring."""
        return max(0.0, cost.report_search - self._rescoring(cost.rows, cost.parts))

    def _relative(self, rows: float) -> float:
        """The cost of searching a part of `rows` rows, as a multiple of that of one of `WHOLE_GRAPH_ROWS`."""
        ratio = self._model.core_seconds_a_vector(rows) / self._model.core_seconds_a_vector(WHOLE_GRAPH_ROWS)
        return ratio * rows / WHOLE_GRAPH_ROWS if rows <= WHOLE_GRAPH_ROWS else float(ratio**GROWTH)

    def _rescoring(self, rows: int, parts: int) -> float:
        """Seconds that rescoring adds to a search, on average over all searches."""
        total = 0.0
        for setting in DEFAULT_GRID:
            for share, answers in zip(self._queries, (10, 100), strict=True):
                total += share * self._rescoring_seconds(rows, parts, answers * setting.multiplier_for(answers))
        return total / (len(DEFAULT_GRID) * sum(self._queries))

    def _rescoring_seconds(self, rows: int, parts: int, candidates: int) -> float:
        """Seconds to read the granules of `candidates` candidates of each part, if these are at random places."""
        granules = max(1.0, rows / parts / self._model.settings.index_granularity)
        read = rows * (1 - (1 - 1 / granules) ** candidates)
        return self._model.exact_seconds(round(read)) - self._model.exact_seconds(0)
