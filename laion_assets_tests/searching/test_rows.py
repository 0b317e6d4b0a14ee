"""Tests of reading rows by their ids, and of ending a search whose answer nobody waits for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.searching.ending import end_search
from laion_assets.searching.rows import rows_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
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


def test_a_statement_is_ended_by_its_comment_and_another_goes_on(settings: Settings) -> None:
    ended: list[TableError] = []

    def search() -> None:
        with connect(settings) as db:
            try:
                db.rows(LONG, settings={"log_comment": "nobody waits"})
            except TableError as error:
                ended.append(error)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    with connect(settings) as db:
        running = "SELECT count() FROM system.processes WHERE Settings['log_comment'] = 'nobody waits'"
        deadline = time.monotonic() + 60
        while db.one(running)[0] == 0:
            assert time.monotonic() < deadline
        end_search(settings, "another comment")
        assert db.one(running)[0] == 1
        end_search(settings, "nobody waits")
        thread.join(60)
        assert len(ended) == 1
        assert db.one(running)[0] == 0
