"""Tests of users from whom a row policy or a profile's filter hides rows: answers are complete and say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.index.graphs import build_indexes
from laion_assets.recall.evaluate import evaluate
from laion_assets.searching.cells import search_cells
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.grants import load_grants, search_grants
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.endpoint.process import endpoint_process
from laion_assets_tests.table.loaded import load_sample, sample_settings
from laion_assets_tests.table.test_grants import DATABASE, SETTINGS, granting

OF_ALL = SETTINGS.model_copy(update={"index": "both"})
NOTICE = "every row compared: a row policy or additional_table_filters hides rows from this user"
POLICY = "<databases><granted><laion><filter>{}</filter></laion></granted></databases>"
FILTERS = "<additional_table_filters>{'granted.laion': 'id % 20 = 7'}</additional_table_filters>"
ANSWERS = (
    SearchRequest(),
    SearchRequest(shards=(1,)),
    SearchRequest(where="similarity > -2"),
    SearchRequest(method="cells"),
    SearchRequest(method="cells", where="similarity > -2"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's folder with a table of 600 rows, its graphs and its cells."""
    folder = tmp_path_factory.mktemp("hidden")
    with endpoint_process(folder / "server") as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
        settings = sample_settings(folder, clickhouse=server.url(DATABASE), index="both")
        load_sample(settings, {0: 300, 1: 300})
        with connect(settings) as db:
            build_indexes(db)
            build_cells(db)
    return folder


def options(folder: Path, *, policy: str = "", profile: str = "", loads: bool = False) -> dict[str, str]:
    grants = load_grants(OF_ALL) if loads else search_grants(OF_ALL)
    given = granting(folder, grants, profile)
    users = (folder / "users.xml").read_text()
    if policy:
        users = users.replace("</default></users>", f"{POLICY.format(policy)}</default></users>")
    (folder / "users.xml").write_text(users)
    return given


def opened(folder: Path, given: dict[str, str]) -> Iterator[Database]:
    with endpoint_process(folder / "server", options=given) as server:
        settings: Settings = sample_settings(folder, clickhouse=server.url(DATABASE), index="both")
        with connect(settings) as db:
            yield db


@pytest.fixture(params=[{"policy": "id % 20 = 7"}, {"profile": FILTERS}], ids=["row policy", "profile"])
def db(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A user of a search who sees a twentieth of the rows."""
    yield from opened(folder, options(tmp_path, **request.param))


@pytest.fixture
def loader(folder: Path, tmp_path: Path) -> Iterator[Database]:
    """A user of loads who sees a twentieth of the rows."""
    yield from opened(folder, options(tmp_path, policy="id % 20 = 7", loads=True))


@pytest.fixture
def all_seeing(folder: Path, tmp_path: Path) -> Iterator[Database]:
    """A user whose policy shows every row: others get it so that a policy for some users hides nothing from them."""
    yield from opened(folder, options(tmp_path, policy="id >= 0 OR 1"))


def test_answers_are_those_of_the_rows_that_the_user_sees(db: Database) -> None:
    vector = vector_of(db, 7, "image")
    for request in ANSWERS:
        wanted = search(db, vector, SearchRequest(exact=True, shards=request.shards)).neighbours
        assert len(wanted) == 10
        found = search_cells(db, vector, request) if request.method == "cells" else search(db, vector, request)
        assert found.neighbours == wanted, request
        assert (found.exact, found.way) == (True, NOTICE)
        assert all(one.id % 20 == 7 for one in found.neighbours)


def test_who_sees_every_row_searches_by_graphs_and_cells(all_seeing: Database) -> None:
    vector = vector_of(all_seeing, 7, "image")
    assert search(all_seeing, vector, SearchRequest()).graphs == 2
    assert search_cells(all_seeing, vector, SearchRequest(method="cells")).clusters is not None


def test_cells_and_recall_are_refused_to_who_does_not_see_every_row(loader: Database) -> None:
    for work in (build_cells, evaluate):
        with pytest.raises(TableError) as caught:
            work(loader)
        assert_one_line(caught.value, "a row policy", "a user who sees every row", "SHOW ROW POLICIES")
