"""Finishes swaps of partitions that a killed process interrupted, so that no row is there twice.

REPLACE PARTITION (26.9) first makes the new part active, then removes the replaced one. If the process is killed in
between, both parts are active when the engine is opened again, and each row is there twice. The staging table of the
interrupted load still exists then, with the checked part, and tells which of the two parts is the new one.
"""

from __future__ import annotations

import re

from laion_assets.table.database import Database
from laion_assets.table.lease import live_tokens
from laion_assets.table.parts import parts_by_shard

LEASED = r"_staging_\d+_([0-9a-f]{8})$"
"""Finds the token of the lease at the end of a staging table's name (`staging.staging_name`)."""


def finish_interrupted_swaps(db: Database) -> list[str]:
    """Drops the replaced parts of partitions that an interrupted swap left with two parts; returns their names.

    Parts that are newer than the swapped one are from other writers, and stay. Staging tables with a live lease are
    skipped: their load finishes its swap itself. Raises `TableError`.
    """
    staged = db.rows(
        "SELECT name, extract(name, {leased:String}) FROM system.tables "
        "WHERE database = {database:String} AND match(name, {ours:String})",
        # The pattern is anchored: staging tables of another LAION_TABLE (laion_b beside laion) begin with our name,
        # too.
        parameters={"database": db.database, "ours": f"^{re.escape(db.settings.table)}{LEASED}", "leased": LEASED},
    )
    live = live_tokens(db) if staged else set()
    dropped = []
    for table, token in staged:
        if token not in live:
            dropped += _finish(db, str(table))
    return dropped


def _finish(db: Database, staging: str) -> list[str]:
    checked = parts_by_shard(db, staging)
    in_table = parts_by_shard(db, db.settings.table) if checked else {}
    replaced = []
    for shard, parts in checked.items():
        there = in_table.get(shard, [])
        same = [part for part in there if (part.rows, part.content) == (parts[0].rows, parts[0].content)]
        if len(parts) == 1 and same:
            replaced += [part.name for part in there[: there.index(same[-1])]]
    for name in replaced:
        db.command(f"ALTER TABLE {db.table} DROP PART {{name:String}}", parameters={"name": name})
    return replaced
