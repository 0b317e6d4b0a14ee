"""Tests of graphs that are built beside the table: meanwhile, readers see the whole old part or the whole new one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laion_assets.errors import PartitionCheckError, TableError
from laion_assets.index import staged
from laion_assets.index.cover import index_cover
from laion_assets.index.declared import declared_indexes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.replaced import declare_indexes
from laion_assets.index.staged import graphs_like_the_replaced
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.proof_of_use import index_use
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import Settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.mutations import start_mutation
from laion_assets.table.schema import partitions
from laion_assets.table.swap import swap_in
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = {0: 600, 1: 400}
BOTH = ["image_index", "text_index"]


@pytest.fixture
def settings(tmp_path: Path, transport: Transport) -> Settings:
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, ROWS)
    return settings


def missing(db: Database) -> dict[int, list[str]]:
    return {state.shard: state.missing for state in index_cover(db)}


def table_names(db: Database) -> list[str]:
    return [str(name) for (name,) in db.rows("SHOW TABLES") if not str(name).endswith(("_leases", "_part_sizes"))]


def load_again(db: Database, shard: int, rows: int) -> None:
    """Loads another file of the shard in the way of the asset `clickhouse_partition`."""
    store = ShardStore(db.settings.data_dir, db.settings.dataset)
    for path in write_sample_shard(db.settings.data_dir / "sample", shard, rows, seed=99):
        path.replace(store.raw_folder / path.name)
    merged = merge_shard(store, shard, max_bad_fraction=0)
    load_partition(db, merged, index=graphs_like_the_replaced(db, lambda _: None))


def test_a_partition_that_is_loaded_again_comes_with_its_graphs(db: Database) -> None:
    load_again(db, 1, 410)
    assert missing(db) == {0: BOTH, 1: BOTH}, "a table without graphs gets none by a load"
    build_indexes(db)
    load_again(db, 1, 420)
    assert missing(db) == {0: [], 1: []}
    assert [(state.rows, state.parts) for state in partitions(db)] == [(600, 1), (420, 1)]
    use = index_use(db, vector_of(db, 10_000_005, "image"), SearchRequest(shards=(1,)))
    assert (use.fault, use.searches) == (None, 1)
    load_again(db, 2, 100)
    assert missing(db)[2] == BOTH, "a partition that is new waits for the next milestone"
    assert table_names(db) == ["laion"]


def test_searches_beside_a_load_see_a_graph_at_every_moment(db: Database, settings: Settings) -> None:
    build_indexes(db)
    with searches_all_the_while(db, settings):
        for rows in (410, 420, 430):
            load_again(db, 1, rows)


def test_searches_beside_a_build_with_other_parameters_see_a_graph_at_every_moment(
    db: Database, settings: Settings
) -> None:
    build_indexes(db)
    for quantization in ("i8", "b1", "bf16"):
        changed = settings.model_copy(update={"hnsw_quantization": quantization})
        with searches_all_the_while(db, settings), connect(changed) as other:
            report = build_indexes(other)
        assert (report.rebuilt, report.shards) == (True, [0, 1])
    assert missing(db) == {0: [], 1: []}


def test_a_build_with_other_parameters_goes_on_where_it_was_ended(db: Database, settings: Settings) -> None:
    build_indexes(db)
    changed = settings.model_copy(update={"hnsw_m": 16})
    with connect(changed) as other:

        def end_after_the_first(line: str) -> None:
            if line.startswith("partition 0 indexed"):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_indexes(other, log=end_after_the_first)
        assert missing(other) == {0: [], 1: ["image_index_2", "text_index_2"]}
        assert missing(db) == {0: [], 1: []}, "the old ones are whole"
        use = index_use(other, vector_of(db, 5, "image"), SearchRequest())
        assert use.fault is None and use.searches >= 2, "a partition with two indexes is searched by one or both"
        found = search(other, vector_of(db, 5, "image"), SearchRequest(limit=5)).neighbours
        assert (found[0].id, len(found)) == (5, 5)
        load_again(db, 1, 410)
        assert missing(other) == {0: [], 1: []}, "a partition that is loaded again comes with both"
        third = settings.model_copy(update={"hnsw_m": 24})
        with connect(third) as asking:
            assert build_indexes(asking).shards == [0, 1]
            assert sorted(declared_indexes(asking)) == ["image_index_3", "text_index_3"]
    with connect(settings) as again:
        declare_indexes(again, lambda _: None)
        assert missing(again) == {0: BOTH, 1: BOTH}
        other = replace(again, settings=third)
        report = build_indexes(other)
        assert (report.shards, report.rebuilt) == ([], True), "the settings went back: what was begun is dropped"
        assert sorted(declared_indexes(other)) == ["image_index_3", "text_index_3"]


def test_the_old_indexes_stay_where_a_search_does_not_use_the_new_ones(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_indexes(db)
    changed = settings.model_copy(update={"hnsw_m": 16})
    with connect(changed) as other:
        # Every search of this connection is exact, as on a server whose profile forbids the use of indexes.
        rows = other.rows

        def without_indexes(self: Database, sql: str, **more: Any) -> list[Any]:
            given = dict(more.pop("settings", None) or {})
            return rows(sql, settings={**given, "use_skip_indexes": 0}, **more)

        monkeypatch.setattr(Database, "rows", without_indexes)
        with pytest.raises(TableError, match=r"a search by image_index_2 went through 0 graphs, expected 2"):
            build_indexes(other)
    monkeypatch.undo()
    assert sorted(declared_indexes(db)) == ["image_index", "image_index_2", "text_index", "text_index_2"]
    assert index_use(db, vector_of(db, 5, "image"), SearchRequest()).fault is None


@contextmanager
def searches_all_the_while(db: Database, settings: Settings) -> Iterator[None]:
    """Searches in a thread, and fails at the end unless each search used the graphs of both parts."""
    vector, ended, faults = vector_of(db, 5, "image"), threading.Event(), list[str]()
    seen: list[int] = []

    def search_all_the_while() -> None:
        with connect(settings) as other:
            while not ended.is_set():
                use = index_use(other, vector, SearchRequest())
                seen.append(use.searches)
                if not (use.in_plan or use.rescored) or use.searches < 2:
                    faults.append(str(use))

    searching = threading.Thread(target=search_all_the_while)
    searching.start()
    try:
        yield
    finally:
        ended.set()
        searching.join()
    assert faults == []
    assert len(seen) > 3


def test_a_partition_that_somebody_changed_meanwhile_is_not_replaced(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_while_somebody_inserts(copy: Database, commands: list[str]) -> object:
        monkeypatch.setattr(staged, "start_mutation", start_mutation)
        db.command(
            f"INSERT INTO {db.table} SELECT * REPLACE (id + 500000 AS id) FROM {db.table} WHERE shard = 0 LIMIT 1",
            settings={"materialize_skip_indexes_on_insert": 0},
        )
        return start_mutation(copy, commands)

    monkeypatch.setattr(staged, "start_mutation", start_while_somebody_inserts)
    with pytest.raises(PartitionCheckError, match=r"partition 0: found part .* another program has written"):
        build_indexes(db)
    assert [state.rows for state in partitions(db)] == [601, 400]
    assert table_names(db) == ["laion"]
    build_indexes(db)
    assert missing(db) == {0: [], 1: []}


def test_a_mutation_that_somebody_began_meanwhile_is_not_undone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_while_somebody_updates(copy: Database, commands: list[str]) -> object:
        monkeypatch.setattr(staged, "start_mutation", start_mutation)
        db.command(f"SYSTEM STOP MERGES {db.table}")
        db.command(f"ALTER TABLE {db.table} UPDATE caption = 'x' WHERE id = 3", settings={"mutations_sync": 0})
        return start_mutation(copy, commands)

    monkeypatch.setattr(staged, "start_mutation", start_while_somebody_updates)
    with pytest.raises(TableError, match="which was begun while the graphs were built"):
        build_indexes(db)
    db.command(f"SYSTEM START MERGES {db.table}")
    build_indexes(db)
    assert missing(db) == {0: [], 1: []}
    assert db.one(f"SELECT caption FROM {db.table} WHERE id = 3") == ("x",)


def test_an_interrupt_leaves_the_table_as_it_was(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    before = db.rows("SELECT name FROM system.parts WHERE active AND table = 'laion' ORDER BY name")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(staged, "swap_in", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_indexes(db)
    assert table_names(db) == ["laion"]
    assert db.rows("SELECT name FROM system.parts WHERE active AND table = 'laion' ORDER BY name") == before
    monkeypatch.setattr(staged, "swap_in", swap_in)
    build_indexes(db)
    assert missing(db) == {0: [], 1: []}


def test_vectors_are_linked_and_not_written_again(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    # So many rows make a wide part, like the parts of real shards.
    load_sample(settings, {0: 4_000})
    with connect(settings) as db:
        before = files_of_the_part(db)
        build_indexes(db)
        after = files_of_the_part(db)
    vectors = {name for name in before if "embedding" in name and name.endswith(".bin")}
    assert vectors
    assert {name: after[name] for name in vectors} == {name: before[name] for name in vectors}
    new = {name for name in after if name not in before}
    assert {name.split(".")[0] for name in new} <= {"skp_idx_image_index", "skp_idx_text_index"}


def files_of_the_part(db: Database) -> dict[str, int]:
    """Returns the inode of each file of the only part."""
    (path,) = db.one("SELECT path FROM system.parts WHERE active AND rows > 0 AND table = 'laion'")
    return {entry.name: entry.inode() for entry in os.scandir(str(path))}
