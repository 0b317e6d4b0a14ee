"""Cells on the nodes of a cluster: each has cells of its own partitions. They are built on one node after the other."""

from __future__ import annotations

from laion_assets.index.cells.build import CellsReport, build_cells
from laion_assets.progress import Log, Progress
from laion_assets.settings import Settings
from laion_assets.table.replicas import on_every_node


def build_cells_everywhere(
    settings: Settings, *, progress: Progress | None = None, log: Log | None = None
) -> list[CellsReport]:
    """Runs `build_cells`; in a cluster, on every replica. The tables of cells are not replicated: derived tables may be
    dropped on one node and built again. A node that fails does not keep the cells of the others from being built.
    Raises `TableError` as `build_cells` does."""
    built = on_every_node(settings, lambda db: build_cells(db, progress=progress, log=log))
    return [report for _, reports in built for report in reports]
