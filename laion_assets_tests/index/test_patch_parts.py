"""Tests of lightweight UPDATEs and DELETEs by patch parts: searches are right, builds apply and never undo them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.errors import PartitionCheckError
from laion_assets.index import staged
from laion_assets.index.cells import centroids
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.events import live_cells
from laion_assets.index.cover import index_cover
from laion_assets.index.graphs import build_indexes
from laion_assets.index.nodes import index_facts, require_whole_index
from laion_assets.searching.cells import search_cells
from laion_assets.searching.known import known_of
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.grants import load_grants
from laion_assets.table.schema import partitions
from laion_assets_tests.conftest import Transport
from laion_assets_tests.endpoint.process import endpoint_process
from laion_assets_tests.table.loaded import load_sample, sample_settings
from laion_assets_tests.table.test_grants import DATABASE, SETTINGS, granting

ROWS = {0: 400, 1: 300}


@pytest.fixture
def settings(tmp_path: Path, transport: Transport) -> Settings:
    settings = sample_settings(tmp_path, index="both", **transport.fresh())
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_indexes(db)
    return settings


@pytest.fixture
def patched(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """The table with cells, in which a DELETE by patch parts removes the three rows of shard 1 nearest to its first."""
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    build_cells(db)
    give_block_numbers(db)
    asked = SearchRequest(limit=4, exact=True, shards=(1,))
    nearest = search(db, vector_of(db, 10_000_000, "image"), asked).neighbours
    delete(db, f"id IN ({', '.join(str(one.id) for one in nearest[1:])})")
    yield db


def give_block_numbers(db: Database) -> None:
    db.command(f"ALTER TABLE {db.table} MODIFY SETTING enable_block_number_column = 1, enable_block_offset_column = 1")


def delete(db: Database, condition: str) -> None:
    db.command(
        f"DELETE FROM {db.table} WHERE {condition}", settings={"lightweight_delete_mode": "lightweight_update_force"}
    )
    known_of(db).forget()


def near(db: Database, **asked: object) -> list[int]:
    known_of(db).forget()
    request = SearchRequest(shards=(1,), **asked)  # type: ignore[arg-type]
    return [one.id for one in search(db, vector_of(db, 10_000_000, "image"), request).neighbours]


def test_searches_are_right_while_patch_parts_wait(patched: Database) -> None:
    vector = vector_of(patched, 10_000_000, "image")
    exact = search(patched, vector, SearchRequest(exact=True, shards=(1,)))
    found = search(patched, vector, SearchRequest(shards=(1,)))
    assert found.neighbours == exact.neighbours
    assert found.way == "every row compared: 1 shard with deleted or updated rows that graphs still have"
    by_cells = search_cells(patched, vector, SearchRequest(shards=(1,), method="cells"))
    assert [one.id for one in by_cells.neighbours] == [one.id for one in exact.neighbours]
    assert by_cells.scanned == 1


def test_patch_parts_count_for_the_partition_that_they_change(patched: Database) -> None:
    states = {state.shard: (state.rows, state.parts, state.deleted_rows) for state in partitions(patched)}
    assert states == {0: (400, 1, False), 1: (300, 1, True)}
    assert [cover.covered for cover in index_cover(patched)] == [True, False]
    live = live_cells(patched, "image")
    assert live is not None
    assert live.scanned == (1,)
    assert [report.exchanged for report in build_cells(patched)] == [[1], [1]]


def test_a_build_applies_patch_parts_and_leaves_the_deleted_rows_out(patched: Database) -> None:
    measured = index_facts(patched).parts
    lines: list[str] = []
    assert build_indexes(patched, log=lines.append).shards == [1]
    assert "1 partition with patch parts of a lightweight UPDATE or DELETE: they are applied" in lines
    # ClickHouse keeps patch parts for half a minute after it applied them: they do not count any more.
    assert patched.rows("SELECT count() > 0 FROM system.parts WHERE active AND startsWith(partition, 'patch-')") == [
        (1,)
    ]
    assert [(state.rows, state.deleted_rows) for state in partitions(patched)] == [(400, False), (297, False)]
    assert index_facts(patched).parts != measured
    require_whole_index(patched)
    assert near(patched) == near(patched, exact=True)
    assert build_indexes(patched).shards == []
    assert [report.exchanged for report in build_cells(patched)] == [[1], [1]]
    assert [report.exchanged for report in build_cells(patched)] == [[], []]


def test_graphs_have_the_vectors_of_an_applied_update(db: Database) -> None:
    give_block_numbers(db)
    target = f"(SELECT any(image_embedding) FROM {db.table} WHERE id = 10000000)"
    db.command(f"UPDATE {db.table} SET image_embedding = {target} WHERE id IN (10000111, 10000222)")
    assert {10_000_000, 10_000_111, 10_000_222} < set(near(db))
    build_indexes(db)
    require_whole_index(db)
    assert {10_000_000, 10_000_111, 10_000_222} < set(near(db))
    assert search(db, vector_of(db, 5, "image"), SearchRequest()).graphs == 2


def test_a_delete_during_a_build_is_not_undone_by_its_swap(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    give_block_numbers(db)
    delete(db, "id = 10000007")
    before = staged._refuse_unfinished

    def somebody_deletes(db: Database, shard: int) -> None:
        delete(db, "shard = 1 AND id % 10 = 3")
        before(db, shard)

    monkeypatch.setattr(staged, "_refuse_unfinished", somebody_deletes)
    with pytest.raises(PartitionCheckError, match="in the table, expected part"):
        build_indexes(db)
    monkeypatch.undo()
    assert db.one(f"SELECT count() FROM {db.table} WHERE shard = 1") == (269,)
    assert build_indexes(db).shards == [1]
    assert db.one(f"SELECT count() FROM {db.table} WHERE shard = 1") == (269,)


def test_another_load_replaces_a_partition_with_patch_parts(patched: Database, settings: Settings) -> None:
    load_sample(settings, {1: 300}, seed=7)
    assert [(state.rows, state.deleted_rows) for state in partitions(patched)] == [(400, False), (300, False)]
    assert patched.one(f"SELECT count() FROM {patched.table} WHERE shard = 1") == (300,)


def test_the_printed_grants_suffice_to_apply_patch_parts(tmp_path: Path) -> None:
    with endpoint_process(tmp_path / "server") as server:
        settings = sample_settings(tmp_path, clickhouse=server.url(DATABASE))
        load_sample(settings, {0: 100})
        with connect(settings) as db:
            give_block_numbers(db)
            delete(db, "id = 7")
    with (
        endpoint_process(tmp_path / "server", options=granting(tmp_path / "all", load_grants(SETTINGS))) as server,
        connect(sample_settings(tmp_path, clickhouse=server.url(DATABASE))) as db,
    ):
        assert build_indexes(db).vectors == 2 * 100
        assert [state.rows for state in partitions(db)] == [99]
