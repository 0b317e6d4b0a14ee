"""Tests of the true neighbours: every way to find them gives those of float64, and they are kept while rows stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from laion_assets.recall.exact import cosine_distances, nearest_by_blocks, true_neighbours
from laion_assets.recall.hits import TOLERANCE
from laion_assets.recall.queries import QuerySet, unseen_sets
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table import vectors as table_vectors
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, draw_rows, stream_vectors, vectors_of
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = {0: 2000, 3: 500}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Settings:
    settings = sample_settings(tmp_path_factory.mktemp("exact"), **transport.fresh())
    load_sample(settings, ROWS)
    return settings


def test_vectors_stream_whole_and_in_order(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_vectors, "BLOCK_ROWS", 300)
    with connect(loaded) as db:
        for by in ("image", "text"):
            column: By = "image" if by == "image" else "text"
            blocks = list(stream_vectors(db, column))
            ids = np.concatenate([block.ids for block in blocks])
            assert ids.tolist() == [*range(2000), *range(30_000_000, 30_000_500)]
            stored = db.rows(f"SELECT {by}_embedding FROM {db.table} WHERE id = 30000499")[0][0]
            assert blocks[-1].vectors[-1].tolist() == pytest.approx(stored, abs=0)
            fetched = vectors_of(db, column, [30_000_499, 7, 99_999_999])
            assert fetched.ids.tolist() == [7, 30_000_499]
            assert fetched.vectors[1].tolist() == pytest.approx(stored, abs=0)


def test_neighbours_are_those_of_a_full_sort_in_float64(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_vectors, "BLOCK_ROWS", 300)
    with connect(loaded) as db:
        blocks = list(stream_vectors(db, "image"))
        ids = np.concatenate([block.ids for block in blocks])
        stored = np.concatenate([block.vectors for block in blocks])
        drawn = vectors_of(db, "text", draw_rows(db, 20, seed=1))
        found = nearest_by_blocks(db, "image", drawn.vectors, np.full(20, -1), 50)
        for query in range(20):
            distances = cosine_distances(drawn.vectors[query], stored)
            assert found.distances[query] == pytest.approx(np.sort(distances)[:50], abs=TOLERANCE)
            at = np.searchsorted(ids, found.ids[query])
            assert distances[at] == pytest.approx(found.distances[query], abs=TOLERANCE)
            assert len(set(found.ids[query].tolist())) == 50
        answers = search(db, drawn.vectors[0], SearchRequest(limit=50, exact=True)).neighbours
        assert [one.distance for one in answers] == pytest.approx(found.distances[0], abs=TOLERANCE)


def test_a_query_does_not_find_its_own_row_in_its_own_column(loaded: Settings) -> None:
    with connect(loaded) as db:
        drawn = vectors_of(db, "image", draw_rows(db, 30, seed=2))
        found = nearest_by_blocks(db, "image", drawn.vectors, drawn.ids, 10)
        assert not (found.ids == drawn.ids[:, None]).any()
        with_own = nearest_by_blocks(db, "image", drawn.vectors, np.full(30, -1), 10)
        assert with_own.distances[:, 0] == pytest.approx(np.zeros(30), abs=TOLERANCE)


def test_more_neighbours_than_rows_end_in_nothing(tmp_path: Path, transport: Transport) -> None:
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, {0: 30})
    with connect(settings) as db:
        drawn = vectors_of(db, "image", [3])
        found = nearest_by_blocks(db, "image", drawn.vectors, drawn.ids, 40)
        assert sorted(found.ids[0, :29].tolist()) == [row for row in range(30) if row != 3]
        assert found.ids[0, 29:].tolist() == [-1] * 11
        assert np.isinf(found.distances[0, 29:]).all()


def drawn_sets(db: Database, seed: int) -> list[QuerySet]:
    return unseen_sets(db, draw_rows(db, 30, seed), 10, seed, "partition")


def test_a_querys_own_partition_is_left_out(loaded: Settings) -> None:
    with connect(loaded) as db:
        drawn = vectors_of(db, "image", draw_rows(db, 20, seed=2))
        found = nearest_by_blocks(db, "image", drawn.vectors, np.full(20, -1), 10, drawn.ids // 10_000_000)
        assert {int(shard) for shard in drawn.ids // 10_000_000} == {0, 3}
        for own, ids, vector in zip(drawn.ids, found.ids, drawn.vectors, strict=True):
            other = 3 - own // 10_000_000
            assert {int(row) // 10_000_000 for row in ids} == {other}
            exact = search(db, vector, SearchRequest(exact=True, shards=(int(other),))).neighbours
            assert found.ids[list(drawn.ids).index(own)].tolist() == [one.id for one in exact]


def test_they_are_kept_until_a_partition_is_loaded_again(tmp_path: Path, transport: Transport) -> None:
    settings, folder = sample_settings(tmp_path, **transport.fresh()), tmp_path / "recall"
    load_sample(settings, {0: 400})
    with connect(settings) as db:
        sets = drawn_sets(db, seed=0)
        first = true_neighbours(db, sets, 20, folder)
        again = true_neighbours(db, sets, 20, folder)
        assert (first.from_store, again.from_store) == (False, True)
        assert all((a.ids == b.ids).all() for a, b in zip(first.neighbours, again.neighbours, strict=True))
        assert not true_neighbours(db, drawn_sets(db, seed=5), 20, folder).from_store
    load_sample(settings, {0: 400})
    with connect(settings) as db:
        assert not true_neighbours(db, sets, 20, folder).from_store
        assert len(list(folder.glob("exact_*.npz"))) == 1
        (kept,) = folder.glob("exact_*.npz")
        content = kept.read_bytes()
        for damaged in (b"not a file of numpy's", content[: len(content) // 2], b""):
            kept.write_bytes(damaged)
            assert not true_neighbours(db, sets, 20, folder).from_store
