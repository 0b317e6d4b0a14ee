"""Ends a search that nobody waits for any more, from outside: by what its statements say of themselves."""

from __future__ import annotations

from laion_assets.settings import Settings
from laion_assets.table.connect import connect


def end_search(settings: Settings, log_comment: str) -> None:
    """Ends the statements that run with this `log_comment`, over a connection of its own. Raises `TableError`."""
    with connect(settings) as db:
        db.rows(
            "KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC", parameters={"comment": log_comment}
        )
