"""Tests that an answer has only rows of its own statement, even after a statement that failed halfway through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import sample_settings

FAILS_LATE = "SELECT number FROM numbers(300000) WHERE NOT throwIf(number = 200000)"
LATE = {"max_threads": 1, "max_block_size": 1000}

FAILING: dict[str, Callable[[Database], object]] = {
    "rows, after 200,000 rows": lambda db: db.rows(FAILS_LATE, settings=LATE),
    "rows, by a time limit": lambda db: db.rows(
        "SELECT number FROM numbers(1000) WHERE NOT sleepEachRow(0.01)",
        settings={"max_execution_time": 1, "max_block_size": 10},
    ),
    "an answer as bytes": lambda db: db.raw(FAILS_LATE, "Arrow", settings=LATE),
    "a command, at its first row": lambda db: db.command("SELECT throwIf(1)"),
}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Iterator[Database]:
    folder: Path = tmp_path_factory.mktemp("answers")
    with connect(sample_settings(folder, **transport.fresh())) as opened:
        yield opened


@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_what_a_failed_statement_had_written_is_in_no_later_answer(
    db: Database, failing: Callable[[Database], object]
) -> None:
    with pytest.raises(TableError):
        failing(db)
    assert db.rows("SELECT number FROM numbers(5)") == [(0,), (1,), (2,), (3,), (4,)]
    with pytest.raises(TableError):
        failing(db)
    assert db.raw("SELECT 7", "TabSeparated") == b"7\n"
