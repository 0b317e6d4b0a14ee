"""Ends a search whose client has gone: its statements are found by their `log_comment`."""

from __future__ import annotations

from laion_assets.settings import Settings
from laion_assets.table.connect import connect


def end_search(settings: Settings, log_comment: str) -> None:
    """Ends the statements that run with this `log_comment`, over a separate connection. Raises `TableError`."""
    with connect(settings) as db:
        db.rows(
            "KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC", parameters={"comment": log_comment}
        )
