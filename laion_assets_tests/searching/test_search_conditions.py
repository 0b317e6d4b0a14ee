"""Tests of index searches with a condition: they find what an exact search finds, however few rows match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from laion_assets.index.counter import graphs_searched
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.query import Query
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    Recall,
    SearchSettings,
    recall_folder,
    save_evaluation,
)
from laion_assets.recall.kept_report import named_settings
from laion_assets.searching.statement import SearchRequest, SearchResult, search, vector_of
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.tuned_request import tuned
from laion_assets_tests.table.loaded import load_sample, sample_settings

RARE = "cityHash64(url) % 500 = 1"
"""About 8 of the 4,000 rows match, and about 4 of the thousand nearest rows of each part."""

COMMON = "NSFW = 'UNLIKELY'"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    settings = sample_settings(tmp_path_factory.mktemp("conditions"), hnsw_m=16, hnsw_ef_construction=64)
    load_sample(settings, {0: 2500, 1: 1500})
    with connect(settings) as opened:
        build_indexes(opened)
        yield opened


def ids(result: SearchResult) -> list[int]:
    return [neighbour.id for neighbour in result.neighbours]


@pytest.mark.parametrize("settings", [(), SearchSettings(64).pairs(), SearchSettings(64, 5).pairs()])
def test_a_common_condition_is_answered_by_the_index(db: Database, settings: tuple[tuple[str, object], ...]) -> None:
    vector = vector_of(db, 7, "image")
    exact = search(db, vector, SearchRequest(exact=True, where=COMMON))
    by_index = search(db, vector, SearchRequest(where=COMMON, settings=settings))
    assert len(set(ids(exact)) & set(ids(by_index))) >= 9
    assert (by_index.exact, by_index.candidates_that_met) == (False, None)


@pytest.mark.parametrize("limit", [5, 10, 900])
def test_a_condition_that_few_candidates_meet_is_answered_by_all_rows(db: Database, limit: int) -> None:
    vector = vector_of(db, 7, "image")
    exact = search(db, vector, SearchRequest(exact=True, where=RARE, limit=limit))
    by_index = search(db, vector, SearchRequest(where=RARE, limit=limit))
    assert ids(by_index) == ids(exact)
    assert len(ids(exact)) >= 5
    if by_index.candidates_that_met is not None:
        assert by_index.exact
        assert by_index.candidates_that_met < limit
    assert limit == 5 or by_index.candidates_that_met is not None, "8 rows meet it"


def test_a_condition_that_half_of_the_rows_meet_takes_four_candidates_a_neighbour(db: Database) -> None:
    result = search(db, vector_of(db, 7, "image"), SearchRequest(where="id % 2 = 1"))
    assert len(result.neighbours) == 10
    assert all(neighbour.id % 2 for neighbour in result.neighbours)
    assert (result.exact, result.graphs, result.parts) == (False, 2, 2)


@pytest.mark.parametrize(
    "where", ["distance < 0.9", "distance < 0.9 AND NSFW = 'UNLIKELY'", "distance BETWEEN 0.1 AND 0.6"]
)
def test_a_condition_on_the_distance_is_answered_by_graphs_as_its_counters_say(db: Database, where: str) -> None:
    vector = vector_of(db, 9, "image")
    before = graphs_searched(db)
    result = search(db, vector, SearchRequest(where=where, limit=5))
    assert graphs_searched(db) - before >= 2
    assert (result.exact, result.graphs, result.parts) == (False, 2, 2)
    exact = search(db, vector, SearchRequest(where=where, limit=5, exact=True))
    assert len(set(ids(exact)) & set(ids(result))) >= 4


def test_rescoring_stays_within_ten_thousand_rows_a_part_however_many_candidates(db: Database) -> None:
    vector = vector_of(db, 9, "image")
    request = SearchRequest(limit=500, where="id % 7 = 0", settings=SearchSettings(64, 90).pairs(10))
    found, exact = (search(db, vector, replace(request, exact=flag)) for flag in (False, True))
    assert len(set(ids(exact)) & set(ids(found))) >= 0.99 * len(ids(exact))


def test_a_distance_that_no_near_row_has_is_looked_for_in_all_rows(db: Database) -> None:
    vector = vector_of(db, 9, "image")
    far = SearchRequest(where="distance > 0.9", limit=5)
    result = search(db, vector, far)
    assert ids(result) == ids(search(db, vector, replace(far, exact=True)))
    assert result.exact
    assert result.candidates_that_met is not None


@pytest.mark.parametrize("limit", [1001, 3000, 10_000])
def test_a_limit_beyond_a_thousand_is_answered_by_graphs(db: Database, limit: int) -> None:
    vector = vector_of(db, 9, "image")
    result = search(db, vector, SearchRequest(limit=limit))
    exact = search(db, vector, SearchRequest(limit=limit, exact=True))
    assert (result.exact, result.graphs) == (False, 2)
    assert len(exact.neighbours) == min(limit, 4000)
    assert len(set(ids(exact)) & set(ids(result))) >= 0.98 * len(exact.neighbours)


def test_an_ef_that_is_given_leaves_the_rescoring_that_the_report_chose(db: Database) -> None:
    chosen = SearchSettings(64, 20)
    recall, latency = Recall(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10), Latency(1, 1, 1)
    index = str(IndexParameters.of(db.settings))
    measured = Measurement("like_by_image", chosen, recall, None, latency)
    save_evaluation(
        Evaluation(
            rows=4000, shards=[0, 1], method="graph", index=index, declared={}, parts=[], target=0.95, tolerance=0,
            seed=0, exact_seconds=0, exact_from_store=False, seconds=0,
            kinds=[KindSummary("like_by_image", "rows", 10, 0, latency, None, measured)], measurements=[measured],
        ),
        recall_folder(db.settings),
    )  # fmt: skip
    own = SearchRequest(settings=(("hnsw_candidate_list_size_for_search", 512),))
    used = dict(tuned(own, Query(like=7), named_settings(db.settings)).settings)
    assert used == dict(chosen.pairs()) | {"hnsw_candidate_list_size_for_search": 512}
