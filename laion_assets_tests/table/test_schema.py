"""Tests of the table's schema: the seven columns of ClickHouse's page and `shard`; other tables are refused clearly."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.errors import TableError, TableShapeError
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import create_table, partitions, require_table, table_exists
from laion_assets.table.scratch import drop_stale_staging, scratch_table
from laion_assets.table.staging import Staging, create_staging
from laion_assets_tests.conftest import Transport, assert_one_line, sample_dataset, settings_for

PAGE = [
    ("id", "Int64"),
    ("url", "String"),
    ("caption", "String"),
    ("NSFW", "String"),
    ("similarity", "Float32"),
    ("image_embedding", "Array(Float32)"),
    ("text_embedding", "Array(Float32)"),
]
"""The columns of the table on ClickHouse's page."""


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, transport: Transport) -> Settings:
    """Settings for the sample shards, with a database that only this test uses."""
    return settings_for(tmp_path / "data", sample_folder, **transport.fresh())


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """A connection to an empty database that only this test uses."""
    with connect(settings) as opened:
        yield opened


def described(db: Database) -> list[tuple[str, str]]:
    """Returns the names and types of the table's columns."""
    return [(str(row[0]), str(row[1])) for row in db.rows(f"DESCRIBE {db.table}")]


def test_the_first_seven_columns_are_those_of_clickhouses_page(db: Database) -> None:
    create_table(db)
    assert described(db) == [*PAGE, ("shard", "UInt16")]


def test_the_table_is_partitioned_by_shard_and_ordered_by_id(db: Database) -> None:
    create_table(db)
    assert db.one(
        "SELECT engine, partition_key, sorting_key FROM system.tables WHERE name = 'laion' AND database = {d:String}",
        parameters={"d": db.database},
    ) == ("MergeTree", "shard", "id")


def test_creating_the_table_again_changes_nothing(db: Database) -> None:
    create_table(db)
    db.command(f"INSERT INTO {db.table} (id, shard) VALUES (1, 0)")
    create_table(db)
    assert db.one(f"SELECT count() FROM {db.table}") == (1,)


def test_vectors_are_stored_plain_unless_a_codec_is_set(settings: Settings) -> None:
    def codecs(db: Database) -> set[str]:
        rows = db.rows(
            "SELECT compression_codec FROM system.columns "
            "WHERE database = {d:String} AND table = {t:String} AND name LIKE '%embedding'",
            parameters={"d": db.database, "t": db.settings.table},
        )
        return {str(codec) for (codec,) in rows}

    with connect(settings) as db:
        create_table(db)
        assert codecs(db) == {"CODEC(NONE)"}
    with connect(settings.model_copy(update={"table": "packed", "vector_codec": "ZSTD(3)"})) as db:
        create_table(db)
        assert codecs(db) == {"CODEC(ZSTD(3))"}


def test_extra_columns_stand_after_the_pages(settings: Settings) -> None:
    with connect(settings.model_copy(update={"extra_columns": ("width", "LICENSE")})) as db:
        create_table(db)
        assert described(db)[7:] == [("shard", "UInt16"), ("width", "Int32"), ("LICENSE", "String")]


def test_a_table_without_the_page_partition_is_refused_with_every_difference(db: Database) -> None:
    db.command(
        f"CREATE TABLE {db.table} (id Int64, url String, caption Nullable(String), NSFW String, similarity Float64, "
        "image_embedding Array(Float32), text_embedding Array(Float32), colour String) ENGINE = MergeTree ORDER BY url"
    )
    db.command(f"INSERT INTO {db.table} (id) VALUES (5)")
    with pytest.raises(TableShapeError) as caught:
        create_table(db)
    assert_one_line(
        caught.value,
        f"table {db.database}.laion",
        "no column shard UInt16",
        "column caption Nullable(String) where we have String",
        "column similarity Float64 where we have Float32",
        "a column colour String of its own",
        "PARTITION BY nothing ORDER BY url",
        "LAION_TABLE",
    )
    assert db.one(f"SELECT count() FROM {db.table}") == (1,)


def test_a_view_or_a_table_in_memory_of_that_name_is_refused(db: Database) -> None:
    db.command(f"CREATE VIEW {db.table} AS SELECT 1 AS id")
    with pytest.raises(TableShapeError, match="ENGINE View"):
        create_table(db)


def test_extra_columns_that_the_table_lacks_or_has_are_named(settings: Settings) -> None:
    with connect(settings) as db:
        create_table(db)
    wider = settings.model_copy(update={"extra_columns": ("width",)})
    with connect(wider) as db, pytest.raises(TableShapeError, match=r"no column width Int32.*LAION_EXTRA_COLUMNS"):
        create_table(db)
    with connect(wider.model_copy(update={"table": "wide"})) as db:
        create_table(db)
    with (
        connect(settings.model_copy(update={"table": "wide"})) as db,
        pytest.raises(TableShapeError, match="a column width Int32 of its own"),
    ):
        require_table(db)


def test_a_table_of_another_datasets_shards_is_refused_by_all_that_reads_it(settings: Settings) -> None:
    with connect(settings) as db:
        create_table(db)
    other = settings.model_copy(update={"dataset_name": "laion400m"})
    other.__dict__.pop("dataset", None)
    with connect(other) as db:
        for look in (create_table, require_table, partitions):
            with pytest.raises(TableShapeError) as caught:
                look(db)
            assert_one_line(caught.value, "shards of the dataset sample", "expected those of laion400m", "DAGSTER_HOME")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("dimension", 96, "dimension 96, with text vectors"),
        ("has_text", False, "dimension 512, without text vectors"),
    ],
)
def test_a_table_of_the_dataset_as_it_was_described_before_is_refused(
    field: str, value: object, said: str, old: bool, db: Database
) -> None:
    create_table(db)
    vector = "arrayWithConstant(512, toFloat32(1))"
    db.command(f"INSERT INTO {db.table} (id, image_embedding, text_embedding) SELECT 1, {vector}, {vector}")
    if old:
        db.command(f"ALTER TABLE {db.table} MODIFY COMMENT 'laion_assets: shards of the dataset sample'")
        require_table(db)
    changed = db.settings.model_copy()
    changed.__dict__["dataset"] = sample_dataset(**{field: value})
    for look in (create_table, require_table, partitions):
        with pytest.raises(TableShapeError) as caught:
            look(dataclasses.replace(db, settings=changed))
        assert_one_line(caught.value, "found shards of the dataset sample; dimension 512, with text vectors", said)


def test_a_table_that_has_our_indexes_is_ours(db: Database) -> None:
    create_table(db)
    db.command(
        f"ALTER TABLE {db.table} ADD INDEX image_index image_embedding "
        "TYPE vector_similarity('hnsw', 'cosineDistance', 512, 'bf16', 64, 256)"
    )
    require_table(db)


def test_an_absent_table_is_an_error_that_says_what_to_do(db: Database) -> None:
    assert not table_exists(db)
    with pytest.raises(TableError) as caught:
        require_table(db)
    assert_one_line(caught.value, "no such table", "laion-assets load 0")
    assert partitions(db) == []


def test_stale_staging_tables_are_dropped_and_nothing_else(db: Database) -> None:
    create_table(db)
    for name in ("laion_staging_3_00ff00ff", "laion_staging_17_00ff00ff", "laion_staging_5"):
        create_staging(Staging(db, 3, name), 1)
    for name in (
        "laion_staging_trial_00ff00ff_1_00ff00ff",
        "laion_staging_trial_00ff00ff_1_00ff00ff_form",
        "laion_staging_v2",
    ):
        db.command(f"CREATE TABLE {name} (x UInt8) ENGINE = Memory")
    db.command("CREATE TABLE laion_stage (x UInt8) ENGINE = Memory")
    db.command("CREATE TABLE another_staging_3 (x UInt8) ENGINE = Memory")
    scratch = ["laion_staging_trial_00ff00ff_1_00ff00ff", "laion_staging_trial_00ff00ff_1_00ff00ff_form"]
    stale = ["laion_staging_17_00ff00ff", "laion_staging_3_00ff00ff"]
    if not db.embedded:
        # On a server, tables without a known lease may be in use by others, so these are kept for a day.
        assert sorted(drop_stale_staging(db)) == stale
        assert {"laion_staging_5", *scratch} < {str(name) for (name,) in db.rows("SHOW TABLES")}
        return
    stale = sorted([*stale, "laion_staging_5", *scratch])
    assert sorted(drop_stale_staging(db)) == stale
    left = sorted(str(name) for (name,) in db.rows("SHOW TABLES"))
    assert left == ["another_staging_3", "laion", "laion_stage", "laion_staging_v2"]
    assert drop_stale_staging(db) == []


def test_two_scratch_tables_do_not_meet_and_both_go(db: Database) -> None:
    create_table(db)
    with scratch_table(db, "probe") as first, scratch_table(db, "probe") as second:
        assert first != second
        db.command(f"CREATE TABLE {second} (x UInt8) ENGINE = Memory")
    assert [str(name) for (name,) in db.rows("SHOW TABLES")] == ["laion"]


def test_partitions_count_their_rows_parts_and_bytes(db: Database) -> None:
    create_table(db)
    assert partitions(db) == []
    db.command(f"SYSTEM STOP MERGES {db.table}")
    for row_id, shard in ((1, 0), (2, 0), (70_000_000, 7)):
        db.command(f"INSERT INTO {db.table} (id, shard) VALUES ({row_id}, {shard})")
    assert [(state.shard, state.rows, state.parts) for state in partitions(db)] == [(0, 2, 2), (7, 1, 1)]
    assert all(state.bytes_on_disk > 0 and state.index_bytes == 0 for state in partitions(db))
