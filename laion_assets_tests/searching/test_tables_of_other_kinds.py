"""Tests of searching tables without graphs, and tables whose partitions are sorted by content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from laion_assets.index.graphs import build_indexes
from laion_assets.sample.world import sample_world
from laion_assets.searching.statement import SearchRequest, SearchResult, search, vector_of
from laion_assets.table.connect import connect
from laion_assets_tests.table.loaded import load_sample, sample_settings


def ids(result: SearchResult) -> list[int]:
    return [neighbour.id for neighbour in result.neighbours]


def test_where_every_part_is_scanned_the_answer_is_exact_and_says_so(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 300})
    with connect(settings) as db:
        vector = vector_of(db, 7, "image")
        for request in (SearchRequest(), SearchRequest(where="id % 3 = 0"), SearchRequest()):
            found = search(db, vector, request)
            assert (found.exact, found.graphs, found.parts) == (True, 0, 1)
            assert ids(found) == ids(search(db, vector, replace(request, exact=True)))
        build_indexes(db)
        db.kept.clear()
        found = search(db, vector, SearchRequest())
        assert (found.exact, found.graphs, found.parts) == (False, 1, 1)


def test_partitions_that_are_sorted_by_content_lose_no_answer(tmp_path: Path) -> None:
    """All rows near the query are in one partition, so that partition runs out of candidates long before the other."""
    settings = sample_settings(tmp_path, hnsw_m=16, hnsw_ef_construction=128)
    load_sample(settings, {0: 1500, 1: 12_000})
    target = sample_world().embed_text(["dog"])
    with connect(settings) as db:
        near = [neighbour.id for neighbour in search(db, target, SearchRequest(exact=True, limit=1500)).neighbours]
        kept = ", ".join(str(row_id) for row_id in near if row_id >= 10_000_000)
        db.command(
            f"ALTER TABLE {db.table} DELETE WHERE shard = 1 AND id NOT IN ({kept})", settings={"mutations_sync": 2}
        )
        build_indexes(db)
        for share in (200, 100, 50, 20, 5):
            for seed in range(4):
                request = SearchRequest(where=f"cityHash64(id, {seed}) % {share} = 1")
                found, exact = (search(db, target, replace(request, exact=flag)) for flag in (False, True))
                lost = set(ids(exact)) - set(ids(found))
                assert len(lost) <= (0 if found.exact else 1), f"1 in {share}, seed {seed}: {found.candidates_that_met}"
