"""Cells on the nodes of a cluster: each has cells of its own partitions. They are built on one node after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laion_assets.index.cells.build import CellsReport, build_cells
from laion_assets.index.cells.events import LiveCells, live_cells
from laion_assets.index.cells.schema import cells_exist, vector_columns
from laion_assets.progress import Log, Progress
from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.nodes import connect_to_node, nodes
from laion_assets.table.parts import partition_contents
from laion_assets.table.replicas import by_cluster_shard, on_every_node, with_a_replica
from laion_assets.table.vectors import By


def build_cells_everywhere(
    settings: Settings, *, progress: Progress | None = None, log: Log | None = None
) -> list[CellsReport]:
    """Runs `build_cells`; in a cluster, on every replica. The tables of cells are not replicated: derived tables may be
    dropped on one node and built again. A node that fails does not keep the cells of the others from being built. A
    node without rows needs no cells. Raises `TableError` as `build_cells` does."""

    def build(db: Database) -> list[CellsReport]:
        if settings.cluster is not None and not partition_contents(db) and not _live_of(db):
            return []
        return build_cells(db, progress=progress, log=log)

    return [report for _, reports in on_every_node(settings, build) for report in reports]


@dataclass(frozen=True)
class LiveEverywhere:
    """What searches by cells read: the cells of each vector column, by the column and in a cluster the node, such as
    `image on 10.0.0.1 (cluster shard 1, replica 1)`. Of each cluster shard it is the replica that a search would ask.

    `rows` is the number of rows of the table that are in the cells.
    """

    live: dict[str, LiveCells]
    rows: int

    @property
    def generations(self) -> dict[str, int]:
        """The generation of the centroids of each of them."""
        return {where: one.generation for where, one in self.live.items()}

    @property
    def whole(self) -> bool:
        """Whether every loaded shard is in the cells, as it was loaded last."""
        return not any(one.scanned for one in self.live.values())


def live_everywhere(entry: Database) -> LiveEverywhere | None:
    """What searches by cells read now, in a cluster on the replicas that a search asks. None unless each of these that
    has rows has cells of every vector column. Raises `TableError`."""
    if entry.settings.cluster is None:
        own = _whole_live_of(entry)
        return LiveEverywhere({str(by): one for by, one in own.items()}, _rows_of(own)) if own else None
    live: dict[str, LiveCells] = {}
    rows = 0
    for replicas in by_cluster_shard(nodes(entry)):
        node, own = with_a_replica(entry, replicas, _whole_live_of)
        if own is None:
            return None
        live |= {f"{by} on {node.name}": one for by, one in own.items()}
        rows += _rows_of(own)
    return LiveEverywhere(live, rows) if live else None


def _whole_live_of(db: Database) -> dict[By, LiveCells] | None:
    """The cells of every vector column of one node's own table; empty without rows and cells, None if some lack."""
    own = _live_of(db)
    if len(own) < len(vector_columns(db)):
        return None if own or partition_contents(db) else {}
    return own


def _rows_of(own: Mapping[By, LiveCells]) -> int:
    return max((one.rows for one in own.values()), default=0)


def cells_anywhere(entry: Database) -> bool:
    """Whether there are tables of cells; in a cluster, on one of the nodes at least. Raises `TableError`."""
    if entry.settings.cluster is None:
        return cells_exist(entry)
    for node in nodes(entry):
        with connect_to_node(entry, node) as db:
            if cells_exist(db):
                return True
    return False


def cells_facts(name: str, entry: Database, generations: Mapping[str, int]) -> tuple[str, dict[str, str]]:
    """The text with which an evaluation names the cells that it measured, and in a cluster the generation of each
    column on each node; `generations` as in `LiveEverywhere`."""
    if entry.settings.cluster is None:
        return ", ".join([name, *(f"generation {number} of {by}" for by, number in generations.items())]), {}
    declared = {where: f"generation {number}" for where, number in generations.items()}
    return f"{name} on the nodes of {entry.settings.cluster}", declared


def _live_of(db: Database) -> dict[By, LiveCells]:
    """The cells of those vector columns of one node's own table that have any."""
    if not cells_exist(db):
        return {}
    found = {by: live_cells(db, by) for by in vector_columns(db)}
    return {by: live for by, live in found.items() if live is not None}
