"""Opens ClickHouse, embedded (chDB) or a server, from one URL, and closes it. It runs no DDL for the table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from clickhouse_connect.driver.binding import format_str, quote_identifier

from laion_assets.settings import Settings
from laion_assets.table.database import Database
from laion_assets.table.embedded import in_use, open_embedded
from laion_assets.table.label import label
from laion_assets.table.recovery import finish_interrupted_swaps
from laion_assets.table.server import Address, close_server, open_server

logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
"""The client's logger. It logs what it raises, which would print each of our errors twice."""


@contextlib.contextmanager
def connect(settings: Settings, *, wait_seconds: float | None = None) -> Iterator[Database]:
    """Opens the database that the settings name and closes it at the end of the block.

    Only one process at a time can open the embedded engine's folder, so a step opens it and closes it again. If another
    process holds it, this waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`), then raises
    `EngineHeldError`. Raises `ServerUnreachableError` and `ServerRefusedError` as `open_server` does.
    """
    with contextlib.ExitStack() as closing:
        url = settings.clickhouse_url.get_secret_value()
        parts = urlsplit(url)
        embedded = parts.scheme == "chdb"
        if embedded:
            folder = Path(unquote(parts.netloc + parts.path))
            client = open_embedded(folder, settings, wait_seconds)
            database = "default"
        else:
            client = open_server(settings)
            database = Address.of(url).database
        closing.callback(close_server, client)
        if embedded:
            closing.enter_context(in_use(folder, settings))
        opened = Database(client, settings, database, embedded)
        closing.callback(opened.others.close)
        if label():
            _set_label(opened)
        if database != "default":
            _use_database(opened)
        if embedded:
            finish_interrupted_swaps(opened)
        yield opened


def _set_label(db: Database) -> None:
    """Sets `log_comment` for all statements of the connection: the embedded client resets it after each statement."""
    if db.embedded:
        db.command(f"SET log_comment = {format_str(label())}")
    else:
        db.client.set_client_setting("log_comment", label())


def _use_database(db: Database) -> None:
    """Makes the database if it does not exist. If it exists, the user needs no right to make databases."""
    names = {"name": db.database}
    if not db.rows("SELECT 1 FROM system.databases WHERE name = {name:String}", parameters=names):
        db.command(f"CREATE DATABASE IF NOT EXISTS {quote_identifier(db.database)}")
    db.client.database = db.database
