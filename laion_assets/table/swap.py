"""Swaps a partition in from its staging table, under its lease, and only if both are as they were checked."""

from __future__ import annotations

from laion_assets.errors import PartitionCheckError, ServerBusyError, TableError
from laion_assets.table.lease import Lease
from laion_assets.table.parts import Part, active_parts
from laion_assets.table.patience import patiently
from laion_assets.table.staging import Staging

COVER_BYTES = 16 << 20
"""Free bytes that a swap needs. REPLACE PARTITION (26.9) makes the new part active, then reserves 1 MiB for an empty
part that replaces the old one. If that fails, both parts are active once the engine is opened again, and each row is
there twice. Others may write to the disk at the same time."""


def swap_in(
    held: Lease, staging: Staging, checked: tuple[Part, ...], *, replaces: tuple[Part, ...] | None = None
) -> None:
    """Replaces the partition by the staged parts, and then checks that the table has them. Without staged parts it
    drops the partition.

    `checked` are the staged parts that were checked. `replaces` are the table's parts from which they were made, if
    they were. Raises `LeaseLostError` if another process has taken the lease, `PartitionCheckError` if another writer
    has changed either of them, and `TableError` if the disk has no room.
    """
    patiently(lambda: _require_room(staging))
    held.require()
    if staging.parts() != checked:
        raise _changed(staging, "staged", checked, staging.parts())
    before = _in_table(staging)
    if replaces is not None and before != replaces:
        raise _changed(staging, "in the table", replaces, before)
    patiently(lambda: _replace(held, staging, checked, before))
    swapped = _in_table(staging)
    if _contents(swapped) != _contents(checked):
        raise _changed(staging, "in the table", checked, swapped)


def _in_table(staging: Staging) -> tuple[Part, ...]:
    return patiently(lambda: active_parts(staging.db, staging.db.settings.table, staging.shard))


def _replace(held: Lease, staging: Staging, checked: tuple[Part, ...], before: tuple[Part, ...]) -> None:
    """Raises `ServerBusyError`, after which it may be called again, only if the table has the parts `before` still."""
    # REPLACE PARTITION refuses an empty source (36).
    shard = staging.shard
    change = f"REPLACE PARTITION {shard} FROM {staging.quoted}" if checked else f"DROP PARTITION {shard}"
    try:
        held.db.command(f"ALTER TABLE {held.db.table} {change}")
    except ServerBusyError:
        if _in_table(staging) == before:
            held.require()
            raise


def _contents(parts: tuple[Part, ...]) -> list[tuple[int, str]]:
    return sorted((part.rows, part.content) for part in parts)


def _changed(staging: Staging, where: str, checked: tuple[Part, ...], found: tuple[Part, ...]) -> TableError:
    return PartitionCheckError(
        staging.subject,
        found=f"{_part_names(found)} {where}",
        expected=f"{_part_names(checked)} that was checked",
        advice="another program has written to the table at the same time: stop it, then run this again",
    )


def _part_names(parts: tuple[Part, ...]) -> str:
    return ", ".join(f"part {part.name} of {part.rows:,} rows" for part in parts) or "no part"


def _require_room(staging: Staging) -> None:
    """Refuses the swap if the disk may have no room for the empty part that replaces the old one."""
    free = staging.db.rows(
        "SELECT unreserved_space FROM system.disks WHERE name IN "
        "(SELECT disk_name FROM system.parts WHERE database = {database:String} AND table = {table:String} AND active)",
        parameters={"database": staging.db.database, "table": staging.name},
    )
    smallest = min((int(space) for (space,) in free), default=COVER_BYTES)
    if smallest < COVER_BYTES:
        raise TableError(
            staging.subject,
            found=f"{smallest:,} bytes left on the disk of the table",
            expected=f"at least {COVER_BYTES:,}, or a swap could leave the replaced rows beside the new ones",
            advice="free some space and run this again; the table is unchanged",
        )
