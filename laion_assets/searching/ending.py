"""Ends a search whose client is gone: its statements are found by their `log_comment`."""

from __future__ import annotations

from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.replicas import on_every_node


def end_search(settings: Settings, log_comment: str) -> None:
    """Ends the statements that run with this `log_comment`, over a connection of its own.

    In a cluster it does so on every node: a search by cells asks each node itself. Raises `TableError`, and has then
    ended those on the nodes that answer.
    """

    def end(db: Database) -> None:
        db.rows(
            "KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC", parameters={"comment": log_comment}
        )

    on_every_node(settings, end)
