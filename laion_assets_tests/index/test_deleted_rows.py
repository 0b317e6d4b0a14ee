"""Tests of graphs with rows that a DELETE removed, as for a takedown: searches are right, builds leave the rows out."""

from __future__ import annotations

from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.events import live_cells
from laion_assets.index.cover import index_cover
from laion_assets.index.graphs import build_indexes
from laion_assets.index.nodes import index_facts, require_whole_index
from laion_assets.searching.known import known_of
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, SearchResult, search, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = {0: 600, 1: 400, 2: 50}
BOTH = ["image_index", "text_index"]


@pytest.fixture
def settings(tmp_path: Path, transport: Transport) -> Settings:
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_indexes(db)
    return settings


def delete(db: Database, condition: str) -> None:
    db.command(f"DELETE FROM {db.table} WHERE {condition}", settings={"lightweight_deletes_sync": 2})
    known_of(db).forget()


def delete_the_nearest(db: Database, *, kept: int, number: int, shards: tuple[int, ...]) -> None:
    """Deletes the rows of these shards that are nearest to a row, but not the row itself."""
    asked = SearchRequest(limit=number + 1, exact=True, shards=shards)
    nearest = search(db, vector_of(db, kept, "image"), asked).neighbours
    delete(db, f"id IN ({', '.join(str(one.id) for one in nearest if one.id != kept)})")


def both(db: Database, row_id: int, **asked: object) -> tuple[SearchResult, SearchResult]:
    """A search by graphs and one that compares every row."""
    vector = vector_of(db, row_id, "image")
    request = SearchRequest(**asked)  # type: ignore[arg-type]
    exact = SearchRequest(**asked, exact=True)  # type: ignore[arg-type]
    return search(db, vector, request), search(db, vector, exact)


def test_a_search_after_a_delete_compares_those_shards_whole_and_says_so(db: Database) -> None:
    delete_the_nearest(db, kept=5, number=30, shards=(0,))
    for asked in ({}, {"limit": 40}, {"where": "similarity > 0"}, {"shards": (0, 2)}):
        found, exact = both(db, 5, **asked)
        in_shard = [one.id for one in exact.neighbours if one.shard == 0]
        assert [one.id for one in found.neighbours if one.shard == 0] == in_shard, asked
        assert len(found.neighbours) == len(exact.neighbours)
        assert found.neighbours[0].id == 5
        assert found.exact or found.way.endswith(
            "1 shard with deleted or updated rows that graphs still have compared whole"
        )
    found, exact = both(db, 5, shards=(0,))
    assert found.neighbours == exact.neighbours
    assert found.way == "every row compared: 1 shard with deleted or updated rows that graphs still have"
    others, _ = both(db, 5, shards=(1, 2))
    assert "deleted" not in others.way


def test_if_every_shard_has_deleted_rows_every_row_is_compared(db: Database) -> None:
    delete(db, "id % 10 = 3")
    found, exact = both(db, 5, limit=100)
    assert found.neighbours == exact.neighbours
    assert (found.exact, len(found.neighbours)) == (True, 100)


def test_a_partition_with_deleted_rows_counts_as_without_graphs_until_it_is_built_without_them(db: Database) -> None:
    measured = index_facts(db).parts
    delete_the_nearest(db, kept=5, number=30, shards=(0,))
    assert {state.shard: state.missing for state in index_cover(db)} == {0: BOTH, 1: [], 2: []}
    with pytest.raises(TableError, match="partition 0 has rows that a DELETE removed"):
        require_whole_index(db)
    assert index_facts(db).parts != measured, "a recall report of the earlier graphs does not count"
    lines: list[str] = []
    assert build_indexes(db, log=lines.append).shards == [0]
    assert "partition 0 is written again without 30 rows that were deleted by DELETE" in lines
    assert [(state.rows, state.parts, state.deleted_rows) for state in partitions(db)] == [
        (570, 1, False),
        (400, 1, False),
        (50, 1, False),
    ]
    require_whole_index(db)
    assert build_indexes(db).shards == []
    known_of(db).forget()
    use = index_use(db, vector_of(db, 5, "image"), SearchRequest())
    assert (use.fault, use.searches) == (None, 3)
    found, _ = both(db, 5)
    assert found.way.startswith("by the index")
    assert "deleted" not in found.way


def test_a_partition_of_which_every_row_was_deleted_is_dropped_by_the_build(db: Database) -> None:
    delete(db, "shard = 2")
    assert build_indexes(db).shards == [2]
    assert [state.shard for state in partitions(db)] == [0, 1]
    require_whole_index(db)


def test_cells_of_a_shard_stay_when_its_deleted_rows_are_left_out_of_the_graphs(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    delete(db, "shard = 1 AND id % 2 = 0")
    build_cells(db)
    build_indexes(db)
    live = live_cells(db, "image")
    assert live is not None
    assert live.scanned == ()
    assert [report.exchanged for report in build_cells(db)] == [[], []]


def test_a_graph_of_bits_gives_cosine_distances(tmp_path: Path, transport: Transport) -> None:
    settings = sample_settings(tmp_path, hnsw_quantization="b1", **transport.fresh())
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_indexes(db)
        vector = vector_of(db, 5, "image")
        every_row = search(db, vector, SearchRequest(limit=sum(ROWS.values()), exact=True)).neighbours
        distances = {one.id: one.distance for one in every_row}
        found = search(db, vector, SearchRequest(limit=200))
        assert found.graphs == 3
        for one in found.neighbours:
            assert one.distance == pytest.approx(distances[one.id], abs=1e-6)
        assert found.neighbours[0] == every_row[0]
        assert index_use(db, vector, SearchRequest()).fault is None
