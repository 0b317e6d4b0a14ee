"""Tests of building cells: each loaded row is there once, only lacking cells are built, unfinished ones are unseen."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laion_assets.errors import TableError
from laion_assets.index.cells import centroids, exchange
from laion_assets.index.cells.build import build_cells, layers
from laion_assets.index.cells.events import live_cells, read_record, record, rows_of_loads
from laion_assets.index.cells.generations import read_centroids
from laion_assets.index.cells.schema import cells_table, drop_cells_tables
from laion_assets.index.cells.verify import cells_cover, centroid_misfits
from laion_assets.index.graphs import build_indexes
from laion_assets.searching.cells import search_cells
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.lease import lease
from laion_assets.table.vectors import By, draw_rows, vectors_of
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

ROWS = {0: 1500, 1: 600}
BOTH: tuple[By, By] = ("image", "text")


@pytest.fixture
def settings(tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, ROWS)
    return settings


def ids_in_cells(db: Database, by: By) -> list[int]:
    """Returns the ids of all rows that a search can find; an id that can be found twice is listed twice."""
    live = live_cells(db, by)
    assert live is not None
    sql = f"SELECT id FROM {db.name_of(cells_table(db, by))} WHERE {rows_of_loads(live)}"
    return sorted(int(row_id) for (row_id,) in db.rows(sql))


def ids_in_table(db: Database) -> list[int]:
    return sorted(int(row_id) for (row_id,) in db.rows(f"SELECT id FROM {db.table}"))


def test_every_row_of_every_shard_is_in_the_cells_of_both_columns_once(db: Database) -> None:
    reports = build_cells(db)
    assert [report.by for report in reports] == list(BOTH)
    for report in reports:
        assert (report.exchanged, report.shards, report.rows) == ([0, 1], [0, 1], 2100)
        assert report.generation.clusters == centroids.clusters_for(2100) > 1
        assert ids_in_cells(db, report.by) == ids_in_table(db)
        assert cells_cover(db, report.by).faults == []
    again = build_cells(db)
    assert [(report.trained, report.exchanged) for report in again] == [(False, [])] * 2


def test_a_row_is_in_the_cluster_of_its_nearest_centroid(db: Database) -> None:
    build_cells(db)
    agree = db.rows(
        f"SELECT countIf(cells_cluster = nearest) / count() FROM (SELECT cells_cluster, (SELECT 1), "
        f"assignCentroid(CAST(cells_vector, 'Array(Float32)'), (SELECT groupArray(centroid) FROM (SELECT centroid FROM "
        f"{db.name_of('laion_centroids')} WHERE vectors = 'image' ORDER BY cluster))) AS nearest "
        f"FROM {db.name_of(cells_table(db, 'image'))})"
    )
    assert agree[0][0] > 0.8


def test_a_shard_that_is_loaded_again_is_exchanged_alone(settings: Settings) -> None:
    with connect(settings) as db:
        build_cells(db)
    load_sample(settings, {1: 500}, seed=8)
    with connect(settings) as db:
        assert [cells_cover(db, by).shards for by in BOTH] == [[0], [0]]
        live = live_cells(db, "image")
        assert live is not None
        assert live.scanned == (1,)
        reports = build_cells(db)
        assert [report.exchanged for report in reports] == [[1], [1]]
        for by in BOTH:
            assert ids_in_cells(db, by) == ids_in_table(db)
            assert cells_cover(db, by).faults == []


def test_a_build_of_graphs_leaves_the_cells_as_they_are(db: Database) -> None:
    build_cells(db)
    assert build_indexes(db).shards == [0, 1]
    for by in BOTH:
        live = live_cells(db, by)
        assert live is not None
        assert (live.scanned, live.rows) == ((), 2100)
        assert cells_cover(db, by).faults == []
        assert ids_in_cells(db, by) == ids_in_table(db)
    assert [(report.trained, report.exchanged) for report in build_cells(db)] == [(False, [])] * 2


def test_a_build_of_graphs_beside_a_build_of_cells_has_them_compared_later(db: Database) -> None:
    build_cells(db)
    lines: list[str] = []
    with connect(db.settings) as other, lease(other, "its cells"):
        build_indexes(db, log=lines.append)
    assert any("cells are being built: partition 1 is compared with them by the next build" in line for line in lines)
    live = live_cells(db, "image")
    assert live is not None
    assert live.scanned == (0, 1), "searches scan them until then"
    assert [report.exchanged for report in build_cells(db)] == [[], []], "their rows are the same"
    live = live_cells(db, "image")
    assert live is not None and live.scanned == ()
    assert ids_in_cells(db, "image") == ids_in_table(db)


def test_a_shard_that_was_removed_is_not_found_and_its_rows_go(db: Database) -> None:
    build_cells(db)
    db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")
    vector = vector_of(db, 5, "image")
    found = search_cells(db, vector, SearchRequest(limit=100))
    assert {neighbour.shard for neighbour in found.neighbours} == {0}
    assert [report.removed for report in build_cells(db)] == [[1], [1]]
    assert ids_in_cells(db, "image") == ids_in_table(db)


def test_a_table_that_has_outgrown_its_centroids_gets_new_ones_beside_the_old(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(settings) as db:
        first = build_cells(db)[0].generation
    load_sample(settings, {2: 8000})
    with connect(settings) as db:
        report = build_cells(db)[0]
        assert report.trained
        assert report.generation.number == first.number + 1
        assert report.generation.clusters >= 2 * first.clusters
        assert ids_in_cells(db, "image") == ids_in_table(db)


def test_cells_of_a_table_that_was_dropped_and_loaded_again_are_not_taken_for_its_own(settings: Settings) -> None:
    with connect(settings) as db:
        build_cells(db)
        db.command(f"DROP TABLE {db.table} SYNC")
    load_sample(settings, ROWS, seed=99)
    with connect(settings) as db:
        assert cells_cover(db, "image").faults


def test_the_same_rows_give_the_same_centroids(db: Database) -> None:
    build_cells(db)
    sql = f"SELECT sum(cityHash64(cluster, centroid)) FROM {db.name_of('laion_centroids')}"
    before = db.one(sql)
    drop_cells_tables(db)
    build_cells(db)
    assert db.one(sql) == before


def test_rows_that_never_counted_are_not_found_and_go_with_the_next_build(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(settings) as db:
        build_cells(db)
    load_sample(settings, {0: 1400}, seed=9)

    def die(*_: object, **facts: object) -> int:
        if _[2] == "live":
            raise KeyboardInterrupt
        return record(*_, **facts)  # type: ignore[arg-type]

    with connect(settings) as db:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("laion_assets.index.cells.exchange.record", die)
            build_cells(db)
        (rows,) = db.one(f"SELECT count() FROM {db.name_of(cells_table(db, 'image'))}")
        assert rows == 2100 + 1400
        live = live_cells(db, "image")
        assert live is not None
        assert live.scanned == (0,)
        assert len(ids_in_cells(db, "image")) == 600
        build_cells(db)
        assert ids_in_cells(db, "image") == ids_in_table(db)
        entries = read_record(db, "image").entries
        assert sum(entry.event == "gone" for entry in entries) >= 1


def test_a_shard_that_changes_while_its_cells_are_made_does_not_count(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(settings) as db:

        def changed(given: Database) -> dict[int, object]:
            return {}

        with monkeypatch.context() as patch, pytest.raises(TableError, match="loaded again, or removed"):
            patch.setattr("laion_assets.index.cells.exchange.partition_contents", changed)
            build_cells(db)
        assert live_cells(db, "image") is None
        build_cells(db)
        assert ids_in_cells(db, "image") == ids_in_table(db)


def test_what_differs_from_the_table_is_not_attached(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last row is lost on the way to the staging table."""
    insert: Callable[..., None] = exchange._insert

    def without_the_last_row(*given: Any) -> None:
        insert(*given[:-1], given[-1][:-1])

    monkeypatch.setattr(exchange, "_insert", without_the_last_row)
    with pytest.raises(TableError, match="as the table has them"):
        build_cells(db)
    assert live_cells(db, "image") is None


def test_parts_that_share_no_cluster_are_one_layer() -> None:
    one_shard = [(300, 0, 40), (300, 40, 75), (100, 75, 99)]
    assert layers(one_shard) == [700]
    assert layers([*one_shard, (200, 0, 99), (50, 30, 60)]) == [700, 200, 50]
    assert layers([]) == []


def test_each_row_has_the_cluster_of_its_vector(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard is sorted by several statements, and each statement has several blocks."""
    monkeypatch.setattr(exchange, "SORTED_IDS", 512)
    monkeypatch.setattr(exchange, "BLOCK_ROWS", 200)
    with connect(settings) as db:
        build_cells(db)
        for by in BOTH:
            rows = db.rows(f"SELECT id, cells_cluster FROM {db.name_of(cells_table(db, by))} ORDER BY id")
            found = np.array(rows, dtype=np.int64)
            block = vectors_of(db, by, found[:, 0])
            nearest, _ = read_centroids(db, by, 1).nearest(block.vectors)
            # BFloat16 can assign a vector that lies midway between two centroids to the other one.
            assert len(found) == sum(ROWS.values()) and (nearest == found[:, 1]).mean() > 0.97
            assert len(set(nearest.tolist())) > 1


def test_shards_of_another_kind_no_longer_fit(settings: Settings) -> None:
    with connect(settings) as db:
        build_cells(db)
        assert centroid_misfits(db, "image") == {}
    load_sample(settings, {2: 700}, seed=4711)
    with connect(settings) as db:
        build_cells(db)
        assert set(centroid_misfits(db, "image")) == {2}


def test_searches_during_an_exchange_see_each_row_once(settings: Settings) -> None:
    """A thread searches on the same engine while a shard is loaded again and exchanged, many times."""
    with connect(settings) as db:
        build_cells(db)
        wanted = ids_in_table(db)
        query = vectors_of(db, "image", draw_rows(db, 1, 1)).vectors[0]
    ended = threading.Event()
    faults: list[str] = []
    searches = 0

    def search_on() -> None:
        nonlocal searches
        with connect(settings) as db:
            while not ended.is_set() or not searches:
                found = search_cells(db, query, SearchRequest(limit=1000), CellsSettings(0, 1))
                ids = [neighbour.id for neighbour in found.neighbours]
                searches += 1
                if len(ids) != 1000 or len(set(ids)) != 1000 or not set(ids) <= set(wanted):
                    faults.append(f"{len(ids)} rows, {len(set(ids))} of them different")
                time.sleep(0.05)

    thread = threading.Thread(target=search_on)
    thread.start()
    try:
        for _ in range(2):
            with connect(settings) as db:
                copy = f"{db.table[:-1]}_copy`"
                db.command(f"CREATE TABLE {copy} AS {db.table}")
                db.command(f"INSERT INTO {copy} SELECT * FROM {db.table} WHERE shard = 0")
                db.command(f"OPTIMIZE TABLE {copy} FINAL")
                changed = f"ALTER TABLE {copy} UPDATE caption = concat(caption, '.') WHERE 1"
                db.command(changed, settings={"mutations_sync": 2})
                db.command(f"ALTER TABLE {db.table} REPLACE PARTITION 0 FROM {copy}")
                db.command(f"DROP TABLE {copy} SYNC")
                assert [report.exchanged for report in build_cells(db)] == [[0], [0]]
    finally:
        ended.set()
        thread.join()
    assert faults == []
    assert searches > 0


KILLED = """
import sys
from laion_assets.index.cells import centroids, exchange
from laion_assets.index.cells.build import build_cells, layers
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
centroids.ROWS_A_CENTROID_LEAST = 5
with connect(load_settings(dataset_name="sample", data_dir=sys.argv[1])) as db:
    print("begun", flush=True)
    build_cells(db)
    print("done", flush=True)
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_build_that_is_killed_is_resumed_and_no_row_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 1500, 1: 600, 2: 400})
    chance = random.Random(seed)
    killed = 0
    for attempt in range(4):
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(chance.uniform(0, 2.5))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        with connect(settings) as db:
            if not db.rows("SELECT 1 FROM system.tables WHERE name = 'laion_cells_events'"):
                continue
            for by in BOTH:
                live = live_cells(db, by)
                if live is not None:
                    ids = ids_in_cells(db, by)
                    assert len(ids) == len(set(ids))
                    scanned = db.rows(
                        f"SELECT id FROM {db.table} WHERE shard IN ({', '.join(map(str, live.scanned)) or 'NULL'})"
                    )
                    assert sorted([*ids, *(int(row_id) for (row_id,) in scanned)]) == ids_in_table(db)
        if attempt == 1:
            load_sample(settings, {1: 650}, seed=8 + seed)
    with connect(settings) as db:
        build_cells(db)
        for by in BOTH:
            assert ids_in_cells(db, by) == ids_in_table(db)
            assert cells_cover(db, by).faults == []
    assert killed


def test_the_only_cluster_of_a_small_table_needs_no_training(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 800})
    with connect(settings) as db:
        report = build_cells(db)[0]
        assert report.generation.clusters == 1
        exact = search(db, vector_of(db, 3, "image"), SearchRequest(exact=True))
        codes = search_cells(db, vector_of(db, 3, "image"), SearchRequest())
        assert [one.id for one in codes.neighbours] == [one.id for one in exact.neighbours]
