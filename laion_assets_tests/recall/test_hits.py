"""Tests of the count of hits: rows that are gone are none, and memory does not grow with the queries."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.queries import Kind, QuerySet
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import draw_rows, vectors_of
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = 3_000


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = sample_settings(tmp_path_factory.mktemp("hits"))
    load_sample(settings, {0: ROWS})
    return settings


def drawn_queries(db: Database, count: int) -> QuerySet:
    """Texts of the table that search images; the same texts again if the table has fewer."""
    vectors = vectors_of(db, "text", draw_rows(db, min(count, 100), seed=1)).vectors
    vectors = np.resize(vectors, (count, vectors.shape[1]))
    return QuerySet(Kind("text", "image"), np.full(count, -1, np.int64), vectors)


def test_rows_that_are_gone_are_not_hits(loaded: Settings) -> None:
    with connect(loaded) as db:
        queries = drawn_queries(db, 20)
        truth = nearest_by_blocks(db, "image", queries.vectors, queries.ids, 10)
        gone = 10 * ROWS
        found = [[*ids[:6], gone, *ids[6:9]] for ids in truth.ids.tolist()]
        counter = HitCounter(db, queries, truth, enumerate(found))
        assert counter.recall(found, 10).mean == pytest.approx(0.9)
        assert counter.recall(found[5:], 10, start=5).mean == pytest.approx(0.9)
        assert HitCounter(db, queries, truth, []).recall([[]] * 20, 10).mean == 0.0


def test_each_query_has_its_own_distances(loaded: Settings) -> None:
    """The neighbours of one query are found for another query, whose neighbours they are not."""
    with connect(loaded) as db:
        queries = drawn_queries(db, 20)
        truth = nearest_by_blocks(db, "image", queries.vectors, queries.ids, 10)
        right = truth.ids.tolist()
        others = [*right[1:], right[0]]
        counter = HitCounter(db, queries, truth, [*enumerate(right), *enumerate(others)])
        assert counter.recall(right, 10).minimum == 1.0
        moved = counter.recall(others, 10)
        shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(right, others, strict=True)])
        assert moved.mean == pytest.approx(shared, abs=0.02)
        assert moved.mean < 0.9


def test_memory_does_not_grow_with_the_queries(loaded: Settings) -> None:
    with connect(loaded) as db:
        queries = drawn_queries(db, 1_000)
        truth = nearest_by_blocks(db, "image", queries.vectors, queries.ids, 10)
        answers = np.random.default_rng(0).integers(0, ROWS, (len(queries), 60)).tolist()
        tracemalloc.start()
        HitCounter(db, queries, truth, enumerate(answers))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 90e6, "the vectors of 60,000 pairs take 123 MB"
