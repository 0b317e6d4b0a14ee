"""Tests of `Searcher`: one statement for each search, many threads, many queries at once, releasing the engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import laion_assets
from laion_assets.errors import EngineHeldError, SearchError, TableError
from laion_assets.index.graphs import build_indexes
from laion_assets.query import Query
from laion_assets.searcher import Searcher
from laion_assets.searching.request import SearchRequest
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process
from laion_assets_tests.table.loaded import holder, load_sample, sample_settings

HALF = "id % 2 = 0"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A table of two partitions with their graphs, in the embedded engine."""
    settings = sample_settings(tmp_path_factory.mktemp("searcher"), clickhouse_wait_seconds=0.5)
    load_sample(settings, {0: 1500, 1: 800})
    with connect(settings) as db:
        build_indexes(db)
    return settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with endpoint_process(tmp_path_factory.mktemp("server")) as process:
        yield process


@pytest.fixture(scope="module")
def on_server(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The same table on a server."""
    settings = sample_settings(tmp_path_factory.mktemp("on_server"), clickhouse=server.url("asked"))
    load_sample(settings, {0: 1500, 1: 800})
    with connect(settings) as db:
        build_indexes(db)
    return settings


def test_a_held_searcher_answers_as_one_call_does(settings: Settings) -> None:
    with laion_assets.Searcher(settings) as searcher:
        held = [searcher.search(like=7, limit=5), searcher.search(like=7, limit=5, where=HALF, by="text")]
    assert held[0].equals(laion_assets.search(like=7, limit=5, settings=settings))
    assert held[1].equals(laion_assets.search(like=7, limit=5, where=HALF, by="text", settings=settings))


@pytest.mark.parametrize(
    ("asked", "about"),
    [
        ({"like": "5"}, "like"),
        ({"like": 5.5}, "like"),
        ({"like": True}, "like"),
        ({"text": 7}, "text"),
        ({"like": 7, "where": 5}, "where"),
        ({"like": 7, "shards": ["0"]}, "shards"),
        ({"like": 7, "shards": [0.9]}, "shards"),
        ({"like": 7, "shards": [-1]}, "shards"),
        ({"like": 7, "shards": [10**30]}, "shards"),
        ({"like": 7, "shards": 0}, "shards"),
        ({"like": 7, "limit": "3"}, "limit"),
        ({"like": 7, "method": 3}, "method"),
        ({"like": 7, "by": None}, "by"),
    ],
)
def test_arguments_of_another_type_are_refused_in_one_line(
    settings: Settings, asked: dict[str, Any], about: str
) -> None:
    with pytest.raises(SearchError) as caught:
        laion_assets.search(**asked, settings=settings)
    assert_one_line(caught.value, f"{about}: found ")


def test_numbers_of_numpy_are_numbers(settings: Settings) -> None:
    expected = laion_assets.search(like=7, shards=[1], limit=5, settings=settings)
    found = laion_assets.search(like=np.int64(7), shards=np.array([1]), limit=5, settings=settings)  # type: ignore[arg-type]
    assert found.equals(expected)


def test_a_search_on_a_server_is_one_statement_once_its_kind_was_seen(
    server: ServerProcess, on_server: Settings
) -> None:
    vector = np.random.default_rng(0).standard_normal(512)
    ways = [{}, {"where": HALF}, {"where": "distance < 1.5"}, {"exact": True, "where": HALF}, {"shards": [1]}]
    with Searcher(on_server) as searcher:
        for way in ways:
            searcher.search(vector=vector, **way)  # type: ignore[arg-type]
            server.calm()
            found = searcher.search(vector=vector, **way)  # type: ignore[arg-type]
            assert len(found) == 10
            assert len(server.log()) == 1, way
            server.calm()
            searcher.search(like=7, **way)  # type: ignore[arg-type]
            assert len(server.log()) == 2, "the row's vector, and the search"


def test_many_threads_find_what_one_finds(settings: Settings) -> None:
    vectors = np.random.default_rng(1).standard_normal((24, 512))
    with Searcher(settings) as searcher:
        alone = [searcher.search(vector=vector, where=HALF)["id"].to_list() for vector in vectors]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda one: searcher.search(vector=one, where=HALF)["id"].to_list(), vectors))
    assert together == alone


def test_the_embedded_engine_is_given_back_when_asked_and_opened_again(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        first = searcher.search(like=7)
        searcher.give_back()
        with holder(settings.data_dir), pytest.raises(EngineHeldError):
            searcher.search(like=7)
        assert searcher.search(like=7).equals(first)
    with holder(settings.data_dir):
        pass


def test_a_connection_that_had_to_be_closed_is_not_lent_again(settings: Settings) -> None:
    """A statement fails, and reading the rest of its answer fails too: then the client is closed."""
    with Searcher(settings) as searcher:
        first = searcher.search(like=7)
        with pytest.raises(TableError), searcher.connection() as db:
            db.client.close()
            db.one("SELECT 1")
        assert searcher.search(like=7).equals(first)
        with searcher.connection() as db:
            db.client.close()
            with pytest.raises(TableError):
                db.one("SELECT 1")
        assert searcher.search(like=7).equals(first)


def test_the_engine_is_given_back_after_the_searches_under_way(settings: Settings) -> None:
    vectors = np.random.default_rng(2).standard_normal((40, 512))
    with Searcher(settings) as searcher, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(searcher.search, vector=vector) for vector in vectors]
        for _ in range(3):
            searcher.give_back()
        assert all(len(one.result()) == 10 for one in asked)


def test_what_is_known_is_looked_at_again_when_a_search_fails(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        searcher.search(like=7, where=HALF)
        with searcher.connection() as db:
            db.command(f"RENAME TABLE {db.table} TO {db.name_of('elsewhere')}")
        with pytest.raises(TableError, match="no such table"):
            searcher.search(like=7, where=HALF)
        with searcher.connection() as db:
            db.command(f"RENAME TABLE {db.name_of('elsewhere')} TO {db.table}")
        assert len(searcher.search(like=7, where=HALF)) == 10


@pytest.mark.parametrize("where", [None, HALF, "distance < 1.5 AND caption != ''"])
def test_many_queries_have_the_answers_of_each_alone(settings: Settings, where: str | None) -> None:
    random = np.random.default_rng(3)
    queries = [Query(like=int(row)) for row in random.integers(0, 800, 20)]
    queries += [Query(vector=vector) for vector in random.standard_normal((20, 512))]
    request = SearchRequest(where=where, limit=7)
    with Searcher(settings) as searcher:
        alone = searcher.answer(queries, request)
        batch = searcher.answer_many(queries, request)
    assert [one.query for one in batch.answers] == queries
    assert [one.result.neighbours for one in batch.answers] == [one.result.neighbours for one in alone]
    assert batch.rate > 0


def test_many_texts_are_encoded_and_searched_together(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        batch = searcher.search_many(["a dog", "a red car", "lego"] * 5, limit=3)
        assert batch.answers[4].result.frame().equals(searcher.search("a red car", limit=3))
        with pytest.raises(SearchError, match="an empty text"):
            searcher.search_many(["a dog", " "])


def test_warming_reads_every_graph(settings: Settings) -> None:
    with Searcher(settings) as searcher:
        warmth = searcher.warm()
    assert [(one.by, one.graphs, one.parts) for one in warmth] == [("image", 2, 2), ("text", 2, 2)]
    assert all(one.first_seconds > 0 and one.second_seconds > 0 for one in warmth)
