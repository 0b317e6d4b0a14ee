"""Partitions from which rows were deleted since they were loaded. Only a person who asks for it loads these again."""

from __future__ import annotations

from collections.abc import Mapping

from laion_assets.errors import EngineHeldError
from laion_assets.health.finding import TableLook
from laion_assets.health.history import ShardHistory
from laion_assets.words import counted


def rows_by_shard(table: TableLook | None) -> dict[int, int] | None:
    """The rows of each shard's partition; None if the table was not read."""
    return {state.shard: state.rows for state in table} if isinstance(table, list) else None


def rows_of(shard: int, rows: Mapping[int, int] | None) -> int | None:
    """The rows of one shard's partition, 0 if there is none; None if the table was not read."""
    return None if rows is None else rows.get(shard, 0)


def why_left(history: ShardHistory, table: TableLook | None) -> str:
    """Why an update must not load this shard again; empty if it may. Of a loaded shard it is not known whether rows
    were deleted while another process holds the table."""
    if isinstance(table, EngineHeldError) and history.progress == "loaded":
        return f"shard {history.key} is loaded, and the table could not be read: {table.found}"
    return only_if_asked(history, rows_of(history.shard, rows_by_shard(table)))


def left_as_it_is(history: ShardHistory, rows_in_table: int | None) -> str:
    """What to say of a shard that differs from what was recorded or would be made now, and is not loaded again; empty
    for every other one."""
    differs = bool(history.stale) or history.audit_failed or rows_in_table not in (None, history.rows)
    return only_if_asked(history, rows_in_table) if differs else ""


def only_if_asked(history: ShardHistory, rows_in_table: int | None) -> str:
    """Why only a person may ask for another load of this shard: rows were deleted from its partition, or its rows were
    accepted (`laion-assets accept`). Empty for every other one."""
    deleted = rows_were_deleted(history, rows_in_table)
    if deleted or not history.accepted:
        return deleted
    return (
        f"the rows of partition {history.key} were accepted as the table had them. "
        f"`laion-assets load --again {history.key}` loads the rows of its files in their place"
    )


def rows_were_deleted(history: ShardHistory, rows_in_table: int | None) -> str:
    """What to say of a loaded partition that has some rows, but fewer than were recorded; empty for every other one,
    and if its rows are not known (None).

    Such a partition may be the result of a takedown, and another load would bring the deleted rows back. A partition is
    one part. So the loss of a part, by a broken disk or a loss of power, leaves no row at all.
    """
    if history.loaded_at is None or rows_in_table is None or not 0 < rows_in_table < history.rows:
        return ""
    recorded = "accepted" if history.accepted else "loaded"
    return (
        f"partition {history.key} has {counted(history.rows - rows_in_table, 'row')} fewer than were {recorded}. Rows "
        f"were probably deleted. If they were deleted on purpose, record it by `laion-assets accept {history.key}`. "
        f"`laion-assets load --again {history.key}` loads all rows again, also deleted ones"
    )
