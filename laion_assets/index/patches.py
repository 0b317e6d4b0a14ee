"""Applies patch parts of lightweight UPDATEs and DELETEs before graphs are built: a partition with patch parts that
wait cannot be attached to another table, and its swap would undo them."""

from __future__ import annotations

from collections.abc import Callable

from laion_assets.table.database import Database
from laion_assets.table.mutations import start_mutation
from laion_assets.table.schema import local_table, parts_table
from laion_assets.table.shard_parts import shard_parts
from laion_assets.words import counted


def apply_patches(db: Database, say: Callable[[str], None], stall_seconds: float) -> None:
    """Writes what waits in patch parts into the parts that they change, by one mutation, and waits for its end. Does
    nothing if no patch part waits. Raises `TableError`."""
    table = local_table(db.settings)
    parts = shard_parts(db, parts_table(db), "name", table)[table]
    patched = [shard for shard, of_shard in parts.items() if of_shard.patches]
    if patched:
        say(
            f"{counted(len(patched), 'partition')} with patch parts of a lightweight UPDATE or DELETE: they are applied"
        )
        start_mutation(db, ["APPLY PATCHES"]).follow(db, db.subject, stall_seconds=stall_seconds)
