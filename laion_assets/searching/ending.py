"""Ends a search whose client is gone: its statements are found by their `log_comment`."""

from __future__ import annotations

from laion_assets.errors import TableError
from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.endable import Endable
from laion_assets.table.replicas import on_every_node

FIRST_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.25, 5.0
"""Pauses between two tries to kill a statement. Each is twice as long as the one before it."""


def end_search(settings: Settings, search: Endable) -> None:
    """Ends the search: none of its statements begins any more, and one that runs is killed.

    A statement that is just beginning may reach ClickHouse after the first try, so it is killed until it has ended. The
    connection for this is one of its own. In a cluster statements are killed on every node, since a search by cells
    asks each node itself. Raises `TableError` when the statement has ended, if it could not be killed.
    """
    search.end()
    failed: TableError | None = None
    pause = FIRST_PAUSE_SECONDS
    while not search.wait_for_statements(0):
        try:
            on_every_node(settings, lambda db: _kill(db, search.comment))
        except TableError as error:
            failed = error
        search.wait_for_statements(pause)
        pause = min(2 * pause, MOST_PAUSE_SECONDS)
    if failed is not None:
        raise failed


def _kill(db: Database, comment: str) -> None:
    db.rows("KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC", parameters={"comment": comment})
