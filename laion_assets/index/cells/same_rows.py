"""Keeps the cells of a partition that was swapped in again with the same rows, as a build of graphs does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from laion_assets.errors import LeaseHeldError
from laion_assets.index.cells.events import read_record, record
from laion_assets.index.cells.schema import vector_columns
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.parts import PartitionContent


def keep_cells(db: Database, before: PartitionContent, after: PartitionContent, say: Callable[[str], None]) -> int:
    """Records that a shard's rows in the cells (which exist) are also those of its new parts; returns how many loads.

    Cells identify the load that they come from by a hash over the files of the parts, to which graphs add files.
    Nothing is recorded if the cells are of another load, or are being built: the next build of cells then compares the
    shard, and searches scan the shard until then. Raises `TableError`.
    """
    kept = 0
    try:
        # The cells of a cluster's node are its own, whatever is built on another replica.
        with lease(replace(db, replicas=None), "its cells", wait_seconds=0):
            for by in vector_columns(db):
                found = read_record(db, by)
                for generation in {one.number for one in (found.current, found.newest) if one is not None}:
                    entry = found.live(generation).get(before.shard)
                    if entry is not None and entry.source.content == before.content:
                        facts = {"load": entry.load, "source": after._replace(rows=entry.source.rows)}
                        record(db, by, "live", generation, clusters=entry.clusters, distance=entry.distance, **facts)
                        kept += 1
    except LeaseHeldError:
        say(f"cells are being built: partition {before.shard} is compared with them by the next build")
    return kept
