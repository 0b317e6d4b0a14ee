"""Partitions from which rows were deleted since they were loaded. Only a person who asks for it loads these again."""

from __future__ import annotations

from laion_assets.errors import EngineHeldError
from laion_assets.health.finding import TableLook
from laion_assets.health.history import ShardHistory
from laion_assets.words import counted


def rows_of(shard: int, table: TableLook | None) -> int | None:
    """The rows of a shard's partition, 0 if there is none; None if the table was not read."""
    return sum(state.rows for state in table if state.shard == shard) if isinstance(table, list) else None


def why_left(history: ShardHistory, table: TableLook | None) -> str:
    """Why an update must not load this shard again; empty if it may. Of a loaded shard it is not known whether rows
    were deleted while another process holds the table."""
    if isinstance(table, EngineHeldError) and history.progress == "loaded":
        return f"shard {history.key} is loaded, and the table could not be read: {table.found}"
    return rows_were_deleted(history, rows_of(history.shard, table))


def rows_were_deleted(history: ShardHistory, rows_in_table: int | None) -> str:
    """What to say of a loaded partition that has some rows, but fewer than were loaded; empty for every other one, and
    if its rows are not known (None).

    Such a partition may be the result of a takedown, and another load would bring the deleted rows back. A partition is
    one part. So the loss of a part, by a broken disk or a loss of power, leaves no row at all.
    """
    if history.loaded_at is None or rows_in_table is None or not 0 < rows_in_table < history.rows:
        return ""
    return (
        f"partition {history.key} has {counted(history.rows - rows_in_table, 'row')} fewer than were loaded. Rows were "
        f"probably deleted. `laion-assets load --again {history.key}` loads all rows again, also deleted ones"
    )
