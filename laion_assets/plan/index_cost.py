"""What a plan's index takes, by LAION_INDEX: graphs by the calibration, cells by `method_costs`, both or none."""

from __future__ import annotations

from collections.abc import Sequence

from laion_assets.index.cover import cache_bytes
from laion_assets.machine import Machine
from laion_assets.plan.load_plan import StageCost
from laion_assets.plan.method_costs import MethodCost, method_costs
from laion_assets.plan.model import Model

CELLS_BELOW, CELLS_ABOVE = 0.5, 1.0
"""By which fraction cells may take less or more: they are projected from a few measurements, not from this machine."""


class IndexCosts:
    """The index that LAION_INDEX asks for. Rows and parts are those of one host."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.graphs = model.settings.index in ("hnsw", "both")
        self.cells = model.settings.index in ("cells", "both")

    def disk_bytes(self, rows: int) -> int:
        """Bytes of the index on disk, beside the table."""
        return self.graph_bytes(rows) + (round(self._of_cells(rows, 1).disk_bytes) if self.cells and rows else 0)

    def graph_bytes(self, rows: int) -> int:
        """Bytes of the graphs, on disk and in memory; 0 without graphs."""
        return self._model.index_bytes(rows) if self.graphs else 0

    def cache_bytes(self, rows: int, parts: int) -> int:
        """The least LAION_INDEX_CACHE_BYTES for the graphs; 0 without graphs."""
        vectors = len(self._model.settings.dataset.vector_columns)
        return cache_bytes(self.graph_bytes(rows), parts * vectors) if self.graphs else 0

    def codes_bytes(self, rows: int, parts: int) -> int:
        """Bytes of the codes, which a search by cells reads from the page cache or from disk; 0 without cells."""
        return round(self._of_cells(rows, parts).memory_bytes) if self.cells and rows else 0

    def build_bytes(self, largest_part: int) -> int:
        """Resident memory while the graphs of the largest part are built; 0 without graphs. Of cells it is unknown."""
        return self._model.index_peak_bytes(largest_part) if self.graphs else 0

    def stage(self, here: Sequence[int], everywhere: Sequence[int], rows: int, parts: int, hosts: int) -> StageCost:
        """The stage for partitions that lack graphs, of these rows: those `here` on the host with most to do, and
        `everywhere`. Cells are made of all `rows` and `parts` of each host."""
        model = self._model
        seconds = cores = below = above = 0.0
        if self.graphs:
            seconds = sum(model.index_seconds(each) for each in here)
            cores = sum(model.index_core_seconds(each) for each in everywhere)
            below, above = model.index_error(max(here, default=0))
        if self.cells and rows:
            building = self._of_cells(rows, parts).core_hours * 3600
            seconds, cores = seconds + building / Machine.here().cores, cores + building * hosts
            below, above = max(below, CELLS_BELOW), max(above, CELLS_ABOVE)
        return StageCost(seconds, cores, below, above)

    def search_seconds(self, rows: int, parts: int) -> float:
        """Seconds of a search by graphs, else by cells, else of an exact one."""
        if self.graphs:
            return self._model.search_seconds(parts)
        cells = self._of_cells(rows, parts).seconds if self.cells and rows else None
        return self._model.exact_seconds(rows) if cells is None else cells

    def _of_cells(self, rows: int, parts: int) -> MethodCost:
        dataset, machine = self._model.settings.dataset, Machine.here()
        methods = method_costs(
            *(rows, len(dataset.vector_columns), dataset.dimension, self._model.parameters),
            partitions=max(parts, 1),
            cores=machine.cores,
            memory=machine.memory_bytes,
        )
        return next(cost for cost in methods.costs if cost.name == "cells")
