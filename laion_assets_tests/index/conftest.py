"""The fixture that tests of graphs and of cells share: a connection to the table of the test's settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """A connection that is open while the test runs; `settings` is a fixture of the test's module."""
    with connect(settings) as opened:
        yield opened
