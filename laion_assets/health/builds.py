"""What the table still has of the graphs and cells that were built and measured. Dagster's record cannot tell: somebody
may have changed, attached or merged partitions, or dropped the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laion_assets.errors import EngineHeldError
from laion_assets.health.finding import TableLook
from laion_assets.index.cells.nodes import live_everywhere
from laion_assets.recall.compare import kept_evaluations
from laion_assets.recall.kept_report import changed_since_measured
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import PartitionState, live_partitions


@dataclass(frozen=True)
class Builds:
    """Partitions of the table without graphs, or with graphs that still have deleted rows; partitions that are not in
    the cells as they are now; and what has changed since recall was measured, in words.

    Graphs and cells that LAION_INDEX does not ask for are not looked at.
    """

    without_graphs: frozenset[int] = frozenset()
    without_cells: frozenset[int] = frozenset()
    changed: str = ""


def look_at_builds(settings: Settings, *, wait_seconds: float | None = None) -> tuple[TableLook, Builds | None]:
    """The table's partitions as `look_at_table` gives them, and what they have of what was built; None for this if
    another process holds the embedded engine. Raises `TableError`."""
    try:
        with connect(settings, wait_seconds=wait_seconds) as db:
            states = live_partitions(db)
            return states, read_builds(db, states)
    except EngineHeldError as error:
        return error, None


def read_builds(db: Database, states: Sequence[PartitionState]) -> Builds:
    """What these partitions of the table have of what was built, by a few statements. Raises `TableError`."""
    settings = db.settings
    if not states or not (settings.builds_graphs or settings.builds_cells):
        return Builds()
    lacking = {state.shard for state in states if not state.index_bytes or state.deleted_rows}
    return Builds(
        frozenset(lacking) if settings.builds_graphs else frozenset(),
        _without_cells(db, states) if settings.builds_cells else frozenset(),
        changed_since_measured(kept_evaluations(settings), db),
    )


def _without_cells(db: Database, states: Sequence[PartitionState]) -> frozenset[int]:
    live = live_everywhere(db)
    if live is None or any(one.lost_centroids for one in live.live.values()):
        return frozenset(state.shard for state in states)
    return frozenset(shard for one in live.live.values() for shard in one.scanned)
