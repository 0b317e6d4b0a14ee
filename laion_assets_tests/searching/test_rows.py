"""Tests of reading rows by their ids, and of ending a search whose answer nobody waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from laion_assets.errors import EndedError
from laion_assets.searching.ending import end_search
from laion_assets.searching.rows import rows_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.connections import Connections
from laion_assets.table.database import Database
from laion_assets.table.endable import Endable
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

LONG = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(cityHash64(number))"
"""A statement that takes minutes."""


@pytest.fixture(scope="module")
def settings(transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a table with two shards."""
    made = sample_settings(Path(tmp_path_factory.mktemp("rows")), **transport.fresh())
    load_sample(made, {0: 30, 2: 20})
    return made


def test_rows_have_every_column_but_the_vectors(settings: Settings) -> None:
    with connect(settings) as db:
        found = rows_of(db, [20_000_003, 5, 5, 30, -1, 10**18])
    assert set(found) == {20_000_003, 5}
    assert set(found[5]) == {"id", "url", "caption", "NSFW", "similarity", "shard"}
    assert (found[20_000_003]["id"], found[20_000_003]["shard"]) == (20_000_003, 2)
    assert isinstance(found[5]["caption"], str)


def test_no_ids_are_no_statement_and_no_rows(settings: Settings) -> None:
    with connect(settings) as db:
        assert rows_of(db, []) == {}


def running(db: Database, task: Endable) -> int:
    """Returns how many statements of this work ClickHouse runs now."""
    sql = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = {comment:String}"
    return int(db.one(sql, parameters={"comment": task.comment})[0])


@contextmanager
def searching(settings: Settings, task: Endable, late: float = 0.0) -> Iterator[list[EndedError]]:
    """Runs a statement that takes minutes, `late` seconds after it was begun; yields how it was ended, if it was."""
    ended: list[EndedError] = []

    def search() -> None:
        with connect(settings) as db:
            client = LateClient(db.client, late)
            try:
                replace(db, client=client, task=task).rows(LONG)  # type: ignore[arg-type]
            except EndedError as error:
                ended.append(error)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    yield ended
    thread.join(60)
    assert not thread.is_alive()


class LateClient:
    """A client whose first statement reaches ClickHouse late, as when the machine is busy."""

    def __init__(self, client: Client, late: float) -> None:
        self._client, self._late = client, late

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def query(self, *args: Any, **settings: Any) -> Any:
        """Waits once, and then runs the statement."""
        late, self._late = self._late, 0.0
        time.sleep(late)
        return self._client.query(*args, **settings)


def test_a_statement_is_ended_by_its_comment_and_another_goes_on(settings: Settings) -> None:
    task = Endable("nobody waits")
    with searching(settings, task) as ended, connect(settings) as db:
        deadline = time.monotonic() + 60
        while running(db, task) == 0:
            assert time.monotonic() < deadline
        end_search(settings, Endable("another search"))
        assert running(db, task) == 1
        end_search(settings, task)
        assert running(db, task) == 0
    assert len(ended) == 1


def test_a_statement_that_begins_while_its_search_is_ended_is_ended_too(settings: Settings) -> None:
    task = Endable("just began")
    with searching(settings, task, late=1.0) as ended:
        deadline = time.monotonic() + 60
        while task.wait_for_statements(0):
            assert time.monotonic() < deadline
        end_search(settings, task)
        with connect(settings) as db:
            assert running(db, task) == 0
    assert len(ended) == 1


def test_an_ended_search_begins_no_statement_and_waits_for_no_connection(settings: Settings) -> None:
    connections = Connections(settings)
    task = Endable("ended before it began")
    with connections.borrowed(task) as db:
        assert db.one("SELECT getSetting('log_comment')")[0] == task.comment
        end_search(settings, task)
        with pytest.raises(EndedError):
            db.one("SELECT 1")
    with connections.borrowed() as db:
        assert db.one("SELECT getSetting('log_comment')")[0] != task.comment
    waiting = Endable("waits for a connection")

    def wait() -> None:
        with pytest.raises(EndedError), connections.borrowed(waiting) as db:
            time.sleep(0.3)  # a server has a connection for every search
            db.one("SELECT 1")

    with ExitStack() as stack:
        for _ in range(connections.size):
            stack.enter_context(connections.borrowed())
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        time.sleep(0.2)
        waiting.end()
        thread.join(10)
        assert not thread.is_alive()
    connections.close()
