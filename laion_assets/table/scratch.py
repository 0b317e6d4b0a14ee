"""Scratch tables beside the table, and the removal of those that killed processes left. It does not know their use."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from laion_assets.machine import is_gone, process_mark
from laion_assets.table.database import Database
from laion_assets.table.lease import live_tokens
from laion_assets.table.recovery import finish_interrupted_swaps

SHARD_STAGING = r"_staging_\d+(?:_([0-9a-f]{8}))?$"
"""Names of `staging.staging_name`: staging tables of a shard, with the token of the load's lease. Before there were
leases the names had no token."""

SCRATCH = r"_staging_(?:probe|trial|cells)_([0-9a-f]{8}_[0-9a-f]+)_[0-9a-f]{8}"
"""Names of `scratch_table`, and of tables that are named after one."""

STALE_DAYS = 1
"""On a server a scratch table of another host's process is dropped when nothing has changed it for this time."""


@contextmanager
def scratch_table(db: Database, kind: Literal["probe", "trial", "cells"]) -> Iterator[str]:
    """The unquoted name of a table that no other process has. The caller makes the table.

    It is dropped at the end, with the tables that are named after it: leases and part sizes of an index built in it.

    Two builds on one server must not use the same table. Tables that killed processes left are dropped first.
    """
    _drop(db, SCRATCH)
    name = f"{db.settings.table}_staging_{kind}_{process_mark()}_{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        for table in _named_after(db, name):
            db.command(f"DROP TABLE IF EXISTS {db.name_of(table)} SYNC")


def _named_after(db: Database, name: str) -> list[str]:
    rows = db.rows(
        "SELECT name FROM system.tables WHERE database = {database:String} AND startsWith(name, {name:String})",
        parameters={"database": db.database, "name": name},
    )
    return [str(table) for (table,) in rows]


def drop_stale_staging(db: Database) -> list[str]:
    """Removes all staging and scratch tables whose process is gone; returns their names.

    A staging table is abandoned when the lease in its name is over, whether its holder is dead or only slow. Without
    the table a slow holder cannot swap in old rows over rows that were loaded later. An interrupted swap is finished
    first, while its staging table still tells which part is the new one.
    """
    finish_interrupted_swaps(db)
    return _drop(db, f"({SHARD_STAGING}|{SCRATCH})")


def _drop(db: Database, pattern: str) -> list[str]:
    """In the embedded engine no other process has such tables; on a server it drops those known to be abandoned."""
    ours = f"^{re.escape(db.settings.table)}{pattern}"
    found = db.rows(
        # 0 if the engine does not know the time.
        "SELECT name, toUnixTimestamp(metadata_modification_time) > 0 "
        "AND metadata_modification_time < now() - toIntervalDay({days:UInt32}) FROM system.tables "
        "WHERE database = {database:String} AND match(name, {pattern:String}) ORDER BY name",
        parameters={"database": db.database, "pattern": ours, "days": STALE_DAYS},
    )
    # Leases are read after tables: the process that made one of these tables holds its lease, or held it.
    live = live_tokens(db) if found else set()
    left = [str(name) for name, old in found if _is_left(db, str(name), bool(old), live)]
    for name in left:
        db.command(f"DROP TABLE IF EXISTS {db.name_of(name)} SYNC")
    return left


def _is_left(db: Database, name: str, old: bool, live: set[str]) -> bool:
    staged = re.search(SHARD_STAGING, name)
    if staged is not None:
        return staged[1] not in live if staged[1] else old or db.embedded
    made_by = re.search(SCRATCH, name)
    if made_by is None:
        return True
    if made_by[1] == process_mark():
        return False
    return old or db.embedded or is_gone(made_by[1])
