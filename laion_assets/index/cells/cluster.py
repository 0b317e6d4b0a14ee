"""Cells in a cluster: each node has cells of its own partitions. They are built and read one node after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from laion_assets.index.cells.build import CellsReport, build_cells
from laion_assets.progress import Log, Progress
from laion_assets.settings import Settings
from laion_assets.table.cluster import every_node, node_settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database

Found = TypeVar("Found")


def build_cells_everywhere(
    settings: Settings, *, progress: Progress | None = None, log: Log | None = None
) -> list[CellsReport]:
    """Runs `build_cells`; in a cluster, on every replica. The tables of cells are not replicated: derived tables may be
    dropped on one node and built again. Raises `TableError` as `build_cells` does."""
    built = on_every_node(settings, lambda db: build_cells(db, progress=progress, log=log))
    return [report for _, reports in built for report in reports]


def on_every_node(settings: Settings, work: Callable[[Database], Found]) -> list[tuple[str, Found]]:
    """The result of `work` on each node, with the text " on" and the node's name, which is empty without a cluster."""
    known = every_node(settings)
    if not known:
        with connect(settings) as db:
            return [("", work(db))]
    found = []
    for node in known:
        with connect(node_settings(settings, node)) as db:
            found.append((f" on {node.name}", work(db)))
    return found
