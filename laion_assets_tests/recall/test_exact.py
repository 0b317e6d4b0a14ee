"""Tests of the true neighbours: every way to find them gives those of float64, and they are kept while rows stay."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from laion_assets.recall import exact as exact_module
from laion_assets.recall.exact import cosine_distances, nearest_by_blocks, true_neighbours
from laion_assets.recall.hits import TOLERANCE
from laion_assets.recall.queries import QuerySet, unseen_sets
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table import vectors as table_vectors
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.vectors import Block, By, draw_rows, stream_vectors, vectors_of
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
        next(folder.glob("exact_*.npz")).write_bytes(b"not a file of numpy's")
        assert not true_neighbours(db, sets, 20, folder).from_store


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda kept: kept[: len(kept) // 2],
    "empty": lambda _: b"",
    "zeros at the end": lambda kept: kept[: len(kept) // 2] + bytes(len(kept) - len(kept) // 2),
    "a flipped byte of a header": lambda kept: kept[:100] + bytes([kept[100] ^ 255]) + kept[101:],
    "another shape in a header": lambda kept: kept.replace(b"(10, 20)", b"(09, 20)", 1),
    "a flipped byte of an array": lambda kept: kept[:600] + bytes([kept[600] ^ 1]) + kept[601:],
}


def test_a_damaged_file_is_found_again(loaded: Settings, tmp_path: Path) -> None:
    with connect(loaded) as db:
        sets = drawn_sets(db, seed=0)
        first = true_neighbours(db, sets, 20, tmp_path)
        (path,) = tmp_path.glob("exact_*.npz")
        kept = path.read_bytes()
        for name, damaged in DAMAGE.items():
            assert damaged(kept) != kept, name
            path.write_bytes(damaged(kept))
            again = true_neighbours(db, sets, 20, tmp_path)
            assert not again.from_store, name
            assert all((a.ids == b.ids).all() for a, b in zip(first.neighbours, again.neighbours, strict=True)), name
            assert true_neighbours(db, sets, 20, tmp_path).from_store, name
        # A sound file of fewer queries, which no version of ours writes under this name.
        fewer = {f"{what}_{place}": np.zeros((5, 20)) for what in ("ids", "distances") for place in range(4)}
        np.savez(path, **fewer)  # type: ignore[arg-type]  # numpy's stub wrongly types all keywords as its last one
        assert not true_neighbours(db, sets, 20, tmp_path).from_store


def test_some_queries_at_a_time_find_the_same(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(loaded) as db:
        drawn = vectors_of(db, "image", draw_rows(db, 50, seed=4))
        asked = (drawn.vectors, drawn.ids, 10, np.where(drawn.ids % 2, drawn.ids // 10_000_000, -1))
        whole = nearest_by_blocks(db, "image", *asked)
        monkeypatch.setattr(exact_module, "COMPARED_AT_ONCE", 7 * 2000)
        parts = nearest_by_blocks(db, "image", *asked)
    assert (parts.ids == whole.ids).mean() > 0.98, "rows with the same distance may be in another order"
    assert not (parts.ids == drawn.ids[:, None]).any()
    assert parts.distances == pytest.approx(whole.distances, abs=TOLERANCE)


def test_memory_does_not_grow_with_the_number_of_queries() -> None:
    random = np.random.default_rng(0)
    block = Block(np.arange(table_vectors.BLOCK_ROWS), random.standard_normal((16_384, 8)).astype(np.float32))
    queries = random.standard_normal((4_000, 8)).astype(np.float32)
    tracemalloc.start()
    exact_module._Best(len(queries), 10).add(block, queries, np.full(len(queries), -1), None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6, "4,000 queries and 16,384 rows have 262 MB of similarities"
