"""Scratch tables beside the table, and the removal of those that killed processes left. What is done in them is not
its business."""

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
"""Of `staging.staging_name`: where a shard is loaded, under the lease whose token this is. Before there were leases the
names had none."""

SCRATCH = r"_staging_(?:probe|trial|cells)_([0-9a-f]{8}_[0-9a-f]+)_[0-9a-f]{8}"
"""Of `scratch_table`, and of tables that are named after one."""

STALE_DAYS = 1
"""On a server a scratch table of another host's process is dropped when nothing has changed it for so long."""


@contextmanager
def scratch_table(db: Database, kind: Literal["probe", "trial", "cells"]) -> Iterator[str]:
    """The unquoted name of a table that no other process has, for the caller to make.

    It is dropped at the end, with the tables that are named after it: an index that is built in it has leases, and part
    sizes.

    Two builds on one server must not meet in one table. What killed processes left is dropped first.
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
    """Removes all staging and scratch tables whose process is gone; their names.

    A staging table is abandoned when the lease in its name is over, be its holder dead or only slow: what a slow holder
    still wants to swap in is then gone, so that it cannot undo what was loaded after it. A swap that a death
    interrupted is finished first, while its staging table still tells which part is the new one.
    """
    finish_interrupted_swaps(db)
    return _drop(db, f"({SHARD_STAGING}|{SCRATCH})")


def _drop(db: Database, pattern: str) -> list[str]:
    """In the embedded engine no other process has any; on a server those that are known to be left."""
    ours = f"^{re.escape(db.settings.table)}{pattern}"
    found = db.rows(
        # 0 where the engine does not know it.
        "SELECT name, toUnixTimestamp(metadata_modification_time) > 0 "
        "AND metadata_modification_time < now() - toIntervalDay({days:UInt32}) FROM system.tables "
        "WHERE database = {database:String} AND match(name, {pattern:String}) ORDER BY name",
        parameters={"database": db.database, "pattern": ours, "days": STALE_DAYS},
    )
    # Leases are looked at after tables: the process that made one of these holds its lease, or held it.
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
