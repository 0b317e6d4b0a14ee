"""Scratch tables beside the table, and the removal of those that killed processes left. What is done in them is not
its business."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from laion_assets.machine import is_gone, process_mark
from laion_assets.table.connect import Database

SHARD_STAGING = r"_staging_\d+$"
"""Of `schema.staging_name`: where a shard is loaded."""

SCRATCH = r"_staging_(?:probe|trial)_([0-9a-f]{8}_[0-9a-f]+)_[0-9a-f]{8}"
"""Of `scratch_table`, and of tables that are named after one."""

STALE_DAYS = 1
"""On a server a scratch table of another host's process is nobody's when nothing has changed it for so long."""


@contextmanager
def scratch_table(db: Database, kind: Literal["probe", "trial"]) -> Iterator[str]:
    """The unquoted name of a table that no other process has, for the caller to make; it is dropped at the end.

    Two builds on one server must not meet in one table. What killed processes left is dropped first.
    """
    _drop(db, SCRATCH)
    name = f"{db.settings.table}_staging_{kind}_{process_mark()}_{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        db.command(f"DROP TABLE IF EXISTS {db.name_of(name)} SYNC")


def drop_stale_staging(db: Database) -> list[str]:
    """Removes all staging and scratch tables that killed processes left; their names.

    Only in the embedded engine, where nobody else can be loading while we hold its folder.
    """
    return _drop(db, f"({SHARD_STAGING}|{SCRATCH})") if db.embedded else []


def _drop(db: Database, pattern: str) -> list[str]:
    """In the embedded engine nobody else has any; on a server those that are known to be left."""
    found = db.rows(
        "SELECT name, metadata_modification_time < now() - toIntervalDay({days:UInt32}) FROM system.tables "
        "WHERE database = {database:String} AND match(name, {pattern:String}) ORDER BY name",
        parameters={"database": db.database, "pattern": f"^{db.settings.table}{pattern}", "days": STALE_DAYS},
    )
    left = [str(name) for name, old in found if old or _is_left(db, str(name))]
    for name in left:
        db.command(f"DROP TABLE IF EXISTS {db.name_of(name)} SYNC")
    return left


def _is_left(db: Database, name: str) -> bool:
    made_by = re.search(SCRATCH, name)
    if made_by is None or (db.embedded and made_by[1] != process_mark()):
        return True
    return is_gone(made_by[1])
