"""Tests of the cells of a table whose rows were changed without a load: deleted, updated or dropped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from laion_assets.errors import TableError
from laion_assets.index.cells import centroids, schema
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.events import live_cells
from laion_assets.index.cells.schema import cells_table, centroids_table, events_table
from laion_assets.index.cells.verify import cells_cover
from laion_assets.searching.cells import search_cells
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.dispatch import search_by_method
from laion_assets.searching.statement import SearchRequest, search, vector_of
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import FAST, load_sample, sample_settings

ROWS = {0: 900, 1: 600}
ALL = CellsSettings(0, 1000)


@pytest.fixture
def settings(tmp_path: Path, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(centroids, "ROWS_A_CENTROID_LEAST", 5)
    settings = sample_settings(tmp_path, **transport.fresh())
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_cells(db)
    return settings


def assert_cells_answer_as_the_table(db: Database, where: str | None = None) -> None:
    """Checks that a search over all clusters finds the same rows and distances as an exact search."""
    for row_id in (5, 77):
        vector = vector_of(db, row_id, "image")
        exact = search(db, vector, SearchRequest(where=where, exact=True)).neighbours
        assert search_cells(db, vector, SearchRequest(where=where), ALL).neighbours == exact


def scanned(db: Database) -> tuple[int, ...]:
    live = live_cells(db, "image")
    assert live is not None
    return live.scanned


def test_rows_that_were_deleted_are_not_found_and_no_answer_is_short(db: Database) -> None:
    vector = vector_of(db, 5, "image")
    nearest = search(db, vector, SearchRequest(limit=40, exact=True)).neighbours
    ids = ", ".join(str(one.id) for one in nearest if one.shard == 0 and one.id not in (5, 77))
    db.command(f"DELETE FROM {db.table} WHERE id IN ({ids})", settings={"lightweight_deletes_sync": 2})
    assert scanned(db) == (0,), "the other shard has no such row"
    assert len(search_cells(db, vector, SearchRequest()).neighbours) == 10
    assert_cells_answer_as_the_table(db)
    assert [report.exchanged for report in build_cells(db)] == [[0], [0]]
    assert scanned(db) == ()
    assert cells_cover(db, "image").faults == []
    assert_cells_answer_as_the_table(db)


def test_a_column_that_was_updated_is_what_a_condition_sees(db: Database) -> None:
    db.command(f"ALTER TABLE {db.table} UPDATE caption = 'zebra' WHERE id = 30", settings={"mutations_sync": 2})
    assert_cells_answer_as_the_table(db, "caption = 'zebra'")
    assert [report.exchanged for report in build_cells(db)] == [[0], [0]]
    assert scanned(db) == ()
    assert_cells_answer_as_the_table(db, "caption = 'zebra'")


def test_the_same_rows_in_other_files_are_recorded_and_not_written_again(settings: Settings) -> None:
    with connect(settings) as db:
        copy = f"{db.table[:-1]}_copy`"
        db.command(f"CREATE TABLE {copy} AS {db.table} SETTINGS index_granularity = 128")
        db.command(f"INSERT INTO {copy} SELECT * FROM {db.table} WHERE shard = 1")
        (before,) = db.one(f"SELECT max(cells_load) FROM {db.name_of(cells_table(db, 'image'))}")
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")
        db.command(f"INSERT INTO {db.table} SELECT * FROM {copy} ORDER BY id SETTINGS max_insert_block_size = 250")
        db.command(f"DROP TABLE {copy} SYNC")
        db.command(f"OPTIMIZE TABLE {db.table} PARTITION 1 FINAL")
        db.command(f"ALTER TABLE {db.table} DELETE WHERE id < 0", settings={"mutations_sync": 2})
        lines: list[str] = []
        reports = build_cells(db, log=lines.append)
        assert [report.exchanged for report in reports] == [[], []]
        assert scanned(db) == ()
        (after,) = db.one(f"SELECT max(cells_load) FROM {db.name_of(cells_table(db, 'image'))}")
        assert after == before
        assert_cells_answer_as_the_table(db)


def test_a_table_that_was_dropped_and_loaded_with_other_rows_is_scanned_then_exchanged(settings: Settings) -> None:
    with connect(settings) as db:
        db.command(f"DROP TABLE {db.table} SYNC")
    load_sample(settings, ROWS, seed=99)
    with connect(settings) as db:
        assert scanned(db) == (0, 1)
        assert_cells_answer_as_the_table(db)
        assert [report.exchanged for report in build_cells(db)] == [[0, 1], [0, 1]]
        assert cells_cover(db, "image").faults == []
        assert_cells_answer_as_the_table(db)


LOAD = """
import sys
from pathlib import Path
from laion_assets.table.connect import connect
from laion_assets_tests.table.loaded import FAST, load_sample, sample_settings
settings = sample_settings(Path(sys.argv[1]))
if sys.argv[2] == "drop":
    with connect(settings) as db:
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")
else:
    load_sample(settings, {1: 600}, seed=99)
"""


def test_a_partition_that_later_processes_drop_and_load_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    """The new partition can have the old one's block numbers: a new process counts from the numbers that it finds."""
    settings = sample_settings(tmp_path)
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_cells(db)
    for what in ("drop", "load"):
        command = [sys.executable, "-c", LOAD, str(tmp_path), what]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    with connect(settings) as db:
        assert scanned(db) == (1,)
        assert_cells_answer_as_the_table(db)


def test_rows_that_somebody_deletes_from_the_cells_are_found_and_written_again(db: Database) -> None:
    cells = db.name_of(cells_table(db, "image"))
    db.command(f"DELETE FROM {cells} WHERE id IN (5, 6)", settings={"lightweight_deletes_sync": 2})
    assert cells_cover(db, "image").faults == ["shard 0 is not in the image cells, or was changed since"]
    assert_cells_answer_as_the_table(db)
    lines: list[str] = []
    assert [report.exchanged for report in build_cells(db, log=lines.append)] == [[0], []]
    assert "shard 0 has 898 rows in the image cells, where 900 were written" in lines
    assert cells_cover(db, "image").faults == []


def test_cells_that_were_dropped_are_not_searched_and_are_made_again(db: Database) -> None:
    db.command(f"DROP TABLE {db.name_of(cells_table(db, 'image'))} SYNC")
    assert scanned(db) == (0, 1)
    assert_cells_answer_as_the_table(db)
    assert [report.exchanged for report in build_cells(db)] == [[0, 1], []]
    assert scanned(db) == ()
    assert cells_cover(db, "image").faults == []
    assert_cells_answer_as_the_table(db)


def test_a_part_that_the_engine_set_aside_is_missed_also_beside_rows_that_do_not_count(settings: Settings) -> None:
    """A shard was loaded again with as many rows: the rows of its first load, which do not count, are still there."""
    load_sample(settings, {1: 600}, seed=99)
    with connect(settings) as db:
        build_cells(db)
        assert scanned(db) == ()
        (part,) = db.one(
            f"SELECT _part FROM {db.name_of(cells_table(db, 'image'))} GROUP BY _part "
            "ORDER BY max(cells_load) DESC LIMIT 1"
        )
        db.command(f"ALTER TABLE {db.name_of(cells_table(db, 'image'))} DETACH PART '{part}'")
        assert scanned(db) == (1,)
        assert_cells_answer_as_the_table(db)
        assert [report.exchanged for report in build_cells(db)] == [[1], []]
        assert scanned(db) == ()
        assert_cells_answer_as_the_table(db)


def test_centroids_that_are_missing_cost_no_recall_and_are_trained_again(db: Database) -> None:
    live = live_cells(db, "image")
    assert live is not None
    centroids_of = db.name_of(centroids_table(db))
    kept = f"generation = {live.generation} AND cluster % 2 = 1"
    db.command(f"ALTER TABLE {centroids_of} DELETE WHERE {kept}", settings={"mutations_sync": 2})
    found = search_cells(db, vector_of(db, 5, "image"), SearchRequest(), CellsSettings(3, 1000))
    assert found.way == "by codes: codes of all rows"
    assert found.neighbours == search(db, vector_of(db, 5, "image"), SearchRequest(exact=True)).neighbours
    db.command(f"DROP TABLE {centroids_of} SYNC")
    assert_cells_answer_as_the_table(db)
    lines: list[str] = []
    reports = build_cells(db, log=lines.append)
    assert [(report.trained, report.exchanged) for report in reports] == [(True, [0, 1])] * 2
    assert "centroids of generation 1 of the image cells are missing: a new one is made" in lines
    after = live_cells(db, "image")
    assert after is not None
    assert (after.generation, after.clusters) == (2, live.clusters)
    assert [report.trained for report in build_cells(db)] == [False, False]


@pytest.mark.parametrize("event", ["trained", "begun", "live", "current"])
def test_a_part_of_the_record_that_is_lost_gives_no_wrong_answer_and_is_made_good(db: Database, event: str) -> None:
    """Parts of the record are not synced, so ClickHouse sets one aside after a loss of power."""
    events = db.name_of(events_table(db))
    db.command(f"ALTER TABLE {events} DELETE WHERE event = '{event}'", settings={"mutations_sync": 2})
    vector = vector_of(db, 5, "image")
    exact = search(db, vector, SearchRequest(exact=True)).neighbours
    assert search_by_method(db, vector, SearchRequest()).neighbours == exact
    if event in ("trained", "current"):
        with pytest.raises(TableError, match="no cells of image vectors"):
            search_cells(db, vector, SearchRequest(), ALL)
    else:
        assert search_cells(db, vector, SearchRequest(), ALL).neighbours == exact
    build_cells(db)
    assert_cells_answer_as_the_table(db)
    assert cells_cover(db, "image").faults == []
    live = live_cells(db, "image")
    assert live is not None
    assert (live.generation, live.scanned) == (2 if event == "trained" else 1, ())


def test_rows_that_were_deleted_from_the_table_are_not_missed_in_the_cells(db: Database) -> None:
    """ClickHouse counts marked rows among those of a part; the cells never had them."""
    db.command(f"DELETE FROM {db.table} WHERE id % 3 = 0", settings={"lightweight_deletes_sync": 2})
    build_cells(db)
    assert scanned(db) == ()
    assert [report.exchanged for report in build_cells(db)] == [[], []]
    assert build_cells(db)[0].rows == db.one(f"SELECT count() FROM {db.table}")[0]


def test_cells_of_an_earlier_layout_are_built_again(db: Database) -> None:
    db.command(f"ALTER TABLE {db.name_of(events_table(db))} DROP COLUMN content", settings={"mutations_sync": 2})
    assert cells_cover(db, "image").faults == ["no cells of image vectors: materialize vector_cells"]
    assert [report.exchanged for report in build_cells(db)] == [[0, 1], [0, 1]]
    assert_cells_answer_as_the_table(db)


def test_columns_of_any_name_are_in_the_cells_as_they_are(tmp_path: Path) -> None:
    names = ("cluster", "generation", "load", "vector", "nearest", "met", "number")
    declared = "\n".join(f'{name} = {{type = "Int32", default = 7}}' for name in names)
    (tmp_path / "mine.toml").write_text(
        f'name = "mine"\nshards = 4\ndimension = 512\nclip_model = "sample"\n[extra_columns]\n{declared}\n'
        '[[sources]]\nurl = "{data_dir}/sample"\n'
    )
    settings = load_settings(dataset_name=str(tmp_path / "mine.toml"), data_dir=tmp_path / "data", **FAST)
    load_sample(settings, {0: 700})
    with connect(settings) as db:
        build_cells(db)
        assert cells_cover(db, "image").faults == []
        for name in names:
            assert_cells_answer_as_the_table(db, f"{name} = 7")
            vector = vector_of(db, 5, "image")
            assert search(db, vector, SearchRequest(where=f"{name} = 8")).neighbours == []
            assert len(search(db, vector, SearchRequest(where=f"{name} = 7")).neighbours) == 10


@pytest.mark.parametrize("what", ["columns", "codes"])
def test_cells_of_another_shape_are_dropped_by_the_build(
    settings: Settings, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table was dropped and loaded again with one more column; or its codes have another dimension or method."""
    other = settings
    if what == "columns":
        other = settings.model_copy(update={"extra_columns": ("original_width",)})
        with connect(settings) as db:
            db.command(f"DROP TABLE {db.table} SYNC")
        load_sample(other, ROWS)
    else:
        monkeypatch.setattr(schema, "METHOD", "rabitq")
    with connect(other) as db:
        assert [report.exchanged for report in build_cells(db)] == [[0, 1], [0, 1]]
        assert scanned(db) == ()
        assert_cells_answer_as_the_table(db, None if what == "codes" else "original_width >= 0")
        assert [(report.trained, report.exchanged) for report in build_cells(db)] == [(False, [])] * 2
