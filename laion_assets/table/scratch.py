"""Scratch tables beside the table, and the removal of those that killed processes left. What is done in them is not
its business."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from laion_assets.table.connect import Database

SHARD_STAGING = r"_staging_\d+$"
"""Of `schema.staging_name`: where a shard is loaded."""

SCRATCH = r"_staging_(probe|trial)_[0-9a-f]{8}"
"""Of `scratch_table`, and of tables that are named after one."""

STALE_DAYS = 1
"""On a server others may be at work: a scratch table is nobody's when nothing has changed it for so long."""


@contextmanager
def scratch_table(db: Database, kind: Literal["probe", "trial"]) -> Iterator[str]:
    """The unquoted name of a table that no other process has, for the caller to make; it is dropped at the end.

    Two builds on one server must not meet in one table. What killed processes left is dropped first.
    """
    _drop(db, SCRATCH, older_than_days=0 if db.embedded else STALE_DAYS)
    name = f"{db.settings.table}_staging_{kind}_{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        db.command(f"DROP TABLE IF EXISTS {db.name_of(name)} SYNC")


def drop_stale_staging(db: Database) -> list[str]:
    """Removes all staging and scratch tables that killed processes left; their names.

    Only in the embedded engine, where nobody else can be loading while we hold its folder.
    """
    return _drop(db, f"({SHARD_STAGING}|{SCRATCH})", older_than_days=0) if db.embedded else []


def _drop(db: Database, pattern: str, *, older_than_days: int) -> list[str]:
    stale = db.rows(
        "SELECT name FROM system.tables WHERE database = {database:String} AND match(name, {pattern:String}) "
        "AND ({days:UInt32} = 0 OR metadata_modification_time < now() - toIntervalDay({days:UInt32})) ORDER BY name",
        parameters={"database": db.database, "pattern": f"^{db.settings.table}{pattern}", "days": older_than_days},
    )
    for (name,) in stale:
        db.command(f"DROP TABLE IF EXISTS {db.name_of(str(name))} SYNC")
    return [str(name) for (name,) in stale]
