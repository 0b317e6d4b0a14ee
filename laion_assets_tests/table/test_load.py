"""Tests of loading: a partition equals its merged file row by row, is complete or absent, and can be loaded again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import load_dataset
from laion_assets.errors import LaionError, PartitionCheckError, ShardFileError, TableError, TableShapeError
from laion_assets.settings import Settings
from laion_assets.shard import merge as merge_module
from laion_assets.shard.files import Location
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import MergedShard, read_merged
from laion_assets.shard.store import ShardStore
from laion_assets.shard.vector_sum import vector_sum
from laion_assets.table import inserting, load
from laion_assets.table import staging as staging_module
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.fingerprint import file_fingerprint, vector_sums
from laion_assets.table.lease import lease
from laion_assets.table.load import load_partition
from laion_assets.table.schema import partitions, parts_table
from laion_assets.table.staging import Staging, create_staging, staging_name
from laion_assets.table.verify import partition_figures, vectors_agree
from laion_assets_tests.conftest import Shard, Transport, assert_one_line, class_shard, settings_for

Merge = Callable[[Shard, int], MergedShard]
Rows = list[tuple[Any, ...]]

COLUMNS = "id, url, caption, NSFW, similarity, image_embedding, text_embedding"


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, transport: Transport) -> Settings:
    """Settings for the sample shards, with a database that only this test uses."""
    return settings_for(tmp_path / "data", sample_folder, **transport.fresh())


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    """A connection to an empty database that only this test uses."""
    with connect(settings) as opened:
        yield opened


def as_bytes(text: str | bytes) -> bytes:
    """Returns a text as bytes."""
    return text.encode() if isinstance(text, str) else text


def table_rows(db: Database, shard: int) -> Rows:
    """Returns a partition's rows in the order of their ids, with texts as bytes and NaN as None."""
    found = db.rows(f"SELECT {COLUMNS} FROM {db.table} WHERE shard = {shard} ORDER BY id", text_as_bytes=True)
    return [comparable(row) for row in found]


def comparable(row: Any) -> tuple[Any, ...]:
    """Returns a row with texts as bytes, and with vectors and scores that compare by value."""
    row_id, url, caption, nsfw, similarity, image, text = row
    scores = None if math.isnan(similarity) else float(similarity)
    vectors = (np.asarray(image, np.float32).tobytes(), np.asarray(text, np.float32).tobytes())
    return int(row_id), as_bytes(url), as_bytes(caption), as_bytes(nsfw), scores, *vectors


def file_rows(path: Location) -> Rows:
    """Returns a merged file's rows as pyarrow reads them."""
    table = pq.read_table(path, columns=COLUMNS.split(", "))
    texts = {name: table[name].cast(pa.binary()).to_pylist() for name in ("url", "caption", "NSFW")}
    vectors = {
        name: pc.list_flatten(table[name]).to_numpy().reshape(table.num_rows, 512)
        for name in ("image_embedding", "text_embedding")
    }
    columns = (table["id"].to_pylist(), *texts.values(), table["similarity"].to_pylist(), *vectors.values())
    return [comparable(row) for row in zip(*columns, strict=True)]


def rewrite(merged: MergedShard, change: Callable[[pa.Table], pa.Table]) -> MergedShard:
    """Changes the rows of a merged file but not its footer."""
    table = pq.read_table(merged.path)
    facts = replace(merged).footer()
    schema = table.schema
    changed = change(table)
    pq.write_table(changed.cast(schema).replace_schema_metadata(facts), merged.path, row_group_size=100)
    if changed.num_rows != merged.rows:
        return merged
    return read_merged(merged.path, dataset=load_dataset(merged.dataset), shard=merged.shard)


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """Returns the table with one column replaced."""
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def with_vector(table: pa.Table, row: int, vector: list[float], name: str = "image_embedding") -> pa.Table:
    """Returns the table with one vector replaced."""
    vectors = table[name].to_pylist()
    vectors[row] = vector
    return with_column(table, name, vectors)


def staging_tables(db: Database) -> list[str]:
    """Returns the names of all staging tables."""
    sql = "SELECT name FROM system.tables WHERE name LIKE '%staging%' AND database = {database:String}"
    return [str(name) for (name,) in db.rows(sql, parameters={"database": db.database})]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_partition_equals_its_file_row_by_row(
    number: int, db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[number], number)
    loaded = load_partition(db, merged)
    assert (loaded.shard, loaded.rows) == (number, sample_shards[number].rows)
    rows = table_rows(db, number)
    assert rows == file_rows(merged.path)
    assert [row[2] for row in rows] == sample_shards[number].texts_of_column("caption")
    assert [row[1] for row in rows] == sample_shards[number].texts_of_column("url")


def test_a_partition_is_exactly_one_active_part(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    for number in range(3):
        loaded = load_partition(db, merged_from(sample_shards[number], number))
        assert loaded.bytes_on_disk > 0
    assert [(state.shard, state.rows, state.parts) for state in partitions(db)] == [
        (0, 1_000, 1),
        (1, 620, 1),
        (2, 250, 1),
    ]
    assert staging_tables(db) == []


def test_ids_are_unique_and_say_shard_and_row(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    for number in (0, 3):
        load_partition(db, merged_from(sample_shards[number], number))
    assert db.one(f"SELECT count(), uniqExact(id), countIf(intDiv(id, 10000000) != shard) FROM {db.table}") == (
        1_400,
        1_400,
        0,
    )


def test_loading_twice_is_the_same_as_loading_once(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 1)
    first = load_partition(db, merged)
    rows = table_rows(db, 1)
    again = load_partition(db, merged)
    assert again.fingerprint == first.fingerprint
    assert table_rows(db, 1) == rows
    assert [(state.rows, state.parts) for state in partitions(db)] == [(620, 1)]


def test_a_shard_that_changed_replaces_its_partition_and_no_other(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    load_partition(db, merged_from(sample_shards[0], 0))
    load_partition(db, merged_from(sample_shards[1], 1))
    other = table_rows(db, 0)
    merged = merged_from(sample_shards[2], 1)
    load_partition(db, merged)
    assert table_rows(db, 1) == file_rows(merged.path)
    assert table_rows(db, 0) == other


def test_stages_are_named_as_they_begin_and_timed(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    stages: list[str] = []
    loaded = load_partition(db, merged_from(sample_shards[2], 0), stage=stages.append)
    assert stages == ["insert", "merge parts", "check", "replace"]
    assert list(loaded.seconds) == stages
    assert loaded.total_seconds == sum(loaded.seconds.values()) > 0


@pytest.mark.parametrize(
    ("statement_rows", "part_rows", "merges"),
    [(100, 100, 1), (450, 100, 1), (950, 950, 1), (1_000, 100, 1), (1_000, 1_000, 0), (4_000, 2_000, 0)],
)
def test_a_shard_is_one_part_however_many_were_inserted_and_what_was_one_is_not_written_again(
    statement_rows: int,
    part_rows: int,
    merges: int,
    db: Database,
    merged_from: Merge,
    sample_shards: list[Shard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 50)
    monkeypatch.setattr(inserting, "STATEMENT_ROWS", statement_rows)
    monkeypatch.setattr(inserting, "PART_ROWS", part_rows)
    monkeypatch.setitem(inserting.INSERT_SETTINGS, "input_format_parquet_max_block_size", 50)
    merged = merged_from(sample_shards[0], 0)
    statements: list[int] = []
    load_partition(db, merged, inserted=statements.append)
    assert sum(statements) == 1_000
    # Each pushed stream becomes one part.
    assert len(statements) == -(-1_000 // (statement_rows if db.embedded else part_rows))
    found = db.rows(
        f"SELECT rows, level FROM {parts_table(db)} WHERE database = '{db.database}' "
        f"AND table = '{db.settings.table}' AND active AND rows > 0"
    )
    assert [tuple(part) for part in found] == [(1_000, merges)]
    assert table_rows(db, 0) == file_rows(merged.path)


@pytest.mark.parametrize(("part_rows", "on_insert"), [(100, 0), (1_000, 1)])
def test_the_part_that_is_swapped_in_is_brought_to_the_disk(
    part_rows: int,
    on_insert: int,
    db: Database,
    merged_from: Merge,
    sample_shards: list[Shard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    create = staging_module.create_staging

    def noted(staging: Staging, rows: int) -> None:
        create(staging, rows)
        made.append(str(db.one(f"SHOW CREATE TABLE {staging.quoted}")[0]))

    monkeypatch.setattr(inserting, "PART_ROWS", part_rows)
    monkeypatch.setattr(staging_module, "create_staging", noted)
    load_partition(db, merged_from(sample_shards[0], 0))
    assert "min_rows_to_fsync_after_merge = 1" in made[0]
    assert "fsync_part_directory = 1" in made[0]
    assert ("fsync_after_insert = 1" in made[0]) == bool(on_insert)
    assert "fsync_part_directory = 1" in str(db.one(f"SHOW CREATE TABLE {db.table}")[0])


def test_quarantined_rows_are_not_in_the_table_and_the_rest_keeps_its_ids(
    db: Database, settings: Settings, store: ShardStore, sample_shards: list[Shard]
) -> None:
    sample_shards[1].with_vector(5, np.nan).with_vector(600, 0).place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0.01)
    with pytest.raises(ShardFileError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, "2 of 620 rows refused, at most 1 may be", "materialize raw_shard and merged_shard")
    with connect(settings.model_copy(update={"max_bad_fraction": 0.01})) as tolerant:
        load_partition(tolerant, merged)
    ids = [row[0] for row in table_rows(db, 0)]
    assert ids == [row for row in range(620) if row not in (5, 600)]


def test_metadata_that_its_check_refuses_is_refused_by_the_load_too(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    captions = pa.array([None] * 200 + ["caption"] * 50)
    merged = merged_from(sample_shards[2].with_column("caption", captions), 0)
    for _ in range(2):
        with pytest.raises(ShardFileError) as caught:
            load_partition(db, merged)
        assert_one_line(caught.value, "shard 0, merged_0.parquet: found 80% of the rows have no caption")
    assert partitions(db) == []


def test_a_file_that_was_merged_with_other_extra_columns_is_refused(
    db: Database, store: ShardStore, sample_shards: list[Shard]
) -> None:
    sample_shards[2].place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0, extra_columns={"LICENSE": "String"})
    with pytest.raises(ShardFileError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, "the extra columns LICENSE String where the dataset and LAION_EXTRA_COLUMNS say none")


def test_captions_that_look_like_sql_or_are_not_text_are_loaded_byte_for_byte(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    captions = [
        b"'); DROP TABLE laion; --",
        b'" OR ""="',
        b"\\'; SELECT 1 /*",
        b"{target:Array(Float32)}",
        b"\x00 NUL \x00",
        b"\xff\xfe\xc3",
        b"`laion`\n\r\t\x1a\\N",
        b"",
        *[b"plain"] * 242,
    ]
    column = pa.array(captions, pa.binary()).view(pa.string())
    load_partition(db, merged_from(sample_shards[2].with_column("caption", column), 0))
    assert [row[2] for row in table_rows(db, 0)] == captions


def test_a_store_with_quotes_in_its_path_is_loaded_from(
    tmp_path: Path, sample_folder: Path, sample_shards: list[Shard]
) -> None:
    settings = settings_for(tmp_path / 'a\'b "c" \\d', sample_folder)
    store = ShardStore(settings.data_dir, settings.dataset)
    sample_shards[2].place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0)
    with connect(settings) as db:
        load_partition(db, merged)
        assert table_rows(db, 0) == file_rows(merged.path)


@pytest.mark.parametrize("name", ["all*", "b{1,2}", "wh?t"])
def test_a_path_that_the_engine_takes_for_a_pattern_is_refused_clearly(
    name: str, tmp_path: Path, sample_folder: Path, sample_shards: list[Shard]
) -> None:
    settings = settings_for(tmp_path / name, sample_folder, clickhouse=f"chdb://{tmp_path}/engine")
    store = ShardStore(settings.data_dir, settings.dataset)
    sample_shards[2].place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0)
    with connect(settings) as db:
        with pytest.raises(TableError) as caught:
            load_partition(db, merged)
        assert_one_line(caught.value, str(merged.path), "a pattern's signs", "move LAION_DATA_DIR")
        assert staging_tables(db) == []


def test_a_shard_without_rows_is_a_partition_that_is_not_there(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    load_partition(db, merged_from(sample_shards[2], 0))
    load_partition(db, merged_from(sample_shards[2], 1))
    loaded = load_partition(db, merged_from(sample_shards[0].head(0), 1))
    assert (loaded.rows, loaded.bytes_on_disk) == (0, 0)
    assert [state.shard for state in partitions(db)] == [0]


def test_a_shard_of_one_row_is_loaded(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    merged = merged_from(sample_shards[0].head(1), 2)
    load_partition(db, merged)
    assert table_rows(db, 2) == file_rows(merged.path)


def unchanged_by(db: Database, merged: MergedShard, *parts: str) -> LaionError:
    """Loads a bad file, checks that the rows, parts and staging tables did not change, and returns the error."""
    before = table_rows(db, merged.shard)
    assert before
    with pytest.raises(LaionError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, *parts)
    assert table_rows(db, merged.shard) == before
    assert [state.parts for state in partitions(db)] == [1]
    assert staging_tables(db) == []
    return caught.value


NAN = [math.nan] * 512
FAULTS: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "a NaN vector": (lambda table: with_vector(table, 77, NAN), "1 rows with a vector that is not finite"),
    "an infinite value": (lambda table: with_vector(table, 3, [math.inf, *[0.0] * 511]), "1 rows with a vector"),
    "a zero text vector": (lambda table: with_vector(table, 9, [0.0] * 512, "text_embedding"), "1 rows with a vector"),
    "a vector of length 2": (lambda table: with_vector(table, 9, [2.0, *[0.0] * 511]), "1 rows with a vector"),
    "a short vector": (lambda table: with_vector(table, 8, [1.0] * 511), "1 vectors that have not 512 elements"),
    "an empty vector": (lambda table: with_vector(table, 8, []), "1 vectors that have not 512 elements"),
    "ids of another shard": (
        lambda table: with_column(table, "id", pc.add(table["id"], 10_000_000).combine_chunks()),
        "ids 10000000 to 10000619 that are of another shard",
    ),
    "one id of another shard": (
        lambda table: with_column(table, "id", [-1, *range(1, 620)]),
        "that are of another shard",
    ),
    "fewer rows": (lambda table: table.slice(1), "619 rows staged, 619 in the file, 620 by its footer"),
    "doubled rows": (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "621 rows staged"),
    "shuffled texts": (
        lambda table: with_column(table, "text_embedding", table["text_embedding"].to_pylist()[::-1]),
        "rows that do not belong together: an image and its text have cosine",
    ),
    "texts that slipped": (
        lambda table: with_column(
            table, "text_embedding", [*table["text_embedding"].to_pylist()[1:], table["text_embedding"].to_pylist()[0]]
        ),
        "rows that do not belong together",
    ),
    "scores of other rows": (
        lambda table: with_column(table, "similarity", table["similarity"].to_pylist()[::-1]),
        "rows that do not belong together: similarity correlates by",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_merged_file_leaves_the_table_as_it_was(
    fault: str, db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    change, said = FAULTS[fault]
    error = unchanged_by(db, rewrite(merged, change), "shard 0, merged_0.parquet", said)
    assert isinstance(error, PartitionCheckError)
    assert "the table is unchanged" in error.advice


def test_a_row_that_appears_twice_is_found(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    spoilt = rewrite(merged, lambda table: with_column(table, "id", [0, 0, *range(2, 620)]))
    unchanged_by(db, spoilt, "shard 0, merged_0.parquet", "1 rows whose id another row has")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE caption = concat(caption, ' ') WHERE id = 7", "captions or scores that differ from the file's"),
        ("UPDATE similarity = 0.5 WHERE id = 7", "captions or scores that differ from the file's"),
        ("DELETE WHERE id = 7", "619 rows staged, 620 in the file"),
    ],
)
def test_rows_that_change_on_their_way_into_the_staging_table_are_found(
    change: str,
    said: str,
    db: Database,
    merged_from: Merge,
    sample_shards: list[Shard],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    make_one_part = load._make_one_part

    def then_change(staging: Staging) -> None:
        make_one_part(staging)
        staging.db.command(f"ALTER TABLE {staging.quoted} {change}", settings={"mutations_sync": 2})

    monkeypatch.setattr(load, "_make_one_part", then_change)
    unchanged_by(db, merged, said)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_file_leaves_the_table_as_it_was(
    kept: float, db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    content = merged.path.read_bytes()
    merged.path.write_bytes(content[: int(len(content) * kept)])
    unchanged_by(db, merged, merged.path.name, "materialize raw_shard and merged_shard for partition 0")


def test_a_damaged_page_leaves_the_table_as_it_was(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    content = bytearray(merged.path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 1_000] = bytes(1_000)
    merged.path.write_bytes(bytes(content))
    unchanged_by(db, merged, merged.path.name, "materialize raw_shard and merged_shard for partition 0")


def test_a_file_that_is_gone_leaves_the_table_as_it_was(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    merged.path.unlink()
    unchanged_by(db, merged, "merged_0.parquet")


def test_the_file_of_another_shard_is_refused(
    db: Database, store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    other = merged_from(sample_shards[0].head(620), 3)
    other.path.rename(str(store.merged_path(0)))
    unchanged_by(db, merged, "of another shard")


def test_the_metadata_of_another_shard_is_refused(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    load_partition(db, merged_from(sample_shards[1], 0))
    mixed = replace(sample_shards[1], table=sample_shards[0].head(620).table)
    unchanged_by(db, merged_from(mixed, 0), "rows that do not belong together: similarity correlates by")


@pytest.mark.parametrize("names", [[row // 50 for row in range(1_000)], [7] * 300], ids=["in order", "one for all"])
def test_a_shard_in_the_order_of_its_classes_is_loaded(db: Database, merged_from: Merge, names: list[int]) -> None:
    assert load_partition(db, merged_from(class_shard(names, dimension=512), 0)).rows == len(names)


def test_classes_of_other_images_are_refused_unless_the_dataset_says_so(
    db: Database, store: ShardStore, merged_from: Merge, tmp_path: Path
) -> None:
    shard = class_shard([row // 50 for row in range(1_000)], dimension=512)
    load_partition(db, merged_from(shard, 0))
    mixed = merged_from(replace(shard, texts=shard.texts[::-1]), 0)
    unchanged_by(db, mixed, "rows that do not belong together", 'write alignment = "off" in the dataset')
    toml = tmp_path / "unchecked.toml"
    toml.write_text('name = "sample"\nshards = 4\ndimension = 512\nalignment = "off"\n')
    unchecked = settings_for(store.folder, tmp_path, dataset_name=str(toml))
    assert load_partition(replace(db, settings=unchecked), mixed).rows == 1_000


def test_faults_are_named_together(db: Database, merged_from: Merge, sample_shards: list[Shard]) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    spoilt = rewrite(merged, lambda table: with_vector(with_vector(table, 1, NAN), 2, [1.0]).slice(0, 600))
    unchanged_by(db, spoilt, "600 rows staged", "1 vectors that have not 512", "rows with a vector that is not finite")


def test_staging_tables_of_killed_processes_are_dropped(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 0)
    load_partition(db, merged)
    with lease(db, "partition 8") as held:
        names = ["laion_staging_0_00ff00ff", "laion_staging_9_00ff00ff", staging_name(held, 8)]
        for name in names:
            create_staging(Staging(db, 0, name), 1)
            db.command(f"INSERT INTO {name} (id, shard) VALUES (1, 0)")
        load_partition(db, merged)
        # The staging table of shard 8 stays, because its load still runs.
        assert staging_tables(db) == [names[2]]
    load_partition(db, merged)
    assert staging_tables(db) == []
    assert table_rows(db, 0) == file_rows(merged.path)


def test_a_table_of_another_shape_is_refused_and_kept(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    db.command(f"CREATE TABLE {db.table} (id Int64, caption String) ENGINE = MergeTree ORDER BY id")
    db.command(f"INSERT INTO {db.table} VALUES (1, 'precious')")
    with pytest.raises(TableShapeError, match="no column url String"):
        load_partition(db, merged_from(sample_shards[2], 0))
    assert db.rows(f"SELECT * FROM {db.table}") == [(1, "precious")]


def test_extra_columns_reach_the_table(tmp_path: Path, sample_folder: Path, sample_shards: list[Shard]) -> None:
    settings = settings_for(tmp_path / "data", sample_folder, extra_columns=("LICENSE", "original_height"))
    store = ShardStore(settings.data_dir, settings.dataset)
    shard = sample_shards[2]
    shard.place(store)
    extra = {"LICENSE": "String", "original_height": "Int32"}
    merged = merge_shard(store, 0, max_bad_fraction=0, extra_columns=extra)  # type: ignore[arg-type]
    with connect(settings) as db:
        load_partition(db, merged)
        rows = db.rows(f"SELECT LICENSE, original_height FROM {db.table} ORDER BY id", text_as_bytes=True)
    expected = zip(shard.texts_of_column("LICENSE"), shard.table["original_height"].to_pylist(), strict=True)
    assert [(as_bytes(license_), height) for license_, height in rows] == list(expected)


def test_a_dataset_without_text_embeddings_is_loaded_with_empty_ones(
    tmp_path: Path, sample_folder: Path, sample_shards: list[Shard]
) -> None:
    path = tmp_path / "images.toml"
    path.write_text('name = "images"\nshards = 4\ndimension = 512\nhas_text = false\n', encoding="utf-8")
    settings = settings_for(tmp_path / "data", sample_folder, dataset_name=str(path))
    store = ShardStore(settings.data_dir, settings.dataset)
    sample_shards[2].place(store)
    with connect(settings) as db:
        load_partition(db, merge_shard(store, 0, max_bad_fraction=0))
        assert db.one(f"SELECT count(), sum(length(text_embedding)), min(length(image_embedding)) FROM {db.table}") == (
            250,
            0,
            512,
        )


def test_vectors_in_the_table_are_compared_with_the_files_bit_for_bit(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    assert vectors_agree(db, merged) == 620
    turned = rewrite(merged, lambda table: with_vector(table, 333, table["image_embedding"][332].as_py()))
    assert vectors_agree(db, turned) is None
    error = unchanged_by(db, turned, "vectors that differ from the file's in image_embedding")
    assert isinstance(error, PartitionCheckError)


ROTATED = "arrayRotateLeft({0}, 1)"
ONE_BIT = (
    "arrayMap((x, i) -> if(i = 77, reinterpretAsFloat32(bitXor(reinterpretAsUInt32(x), 1)), x), "
    "{0}, arrayEnumerate({0}))"
)


@pytest.mark.parametrize("column", ["image_embedding", "text_embedding"])
@pytest.mark.parametrize("change", [ROTATED, ONE_BIT])
def test_no_element_of_any_vector_may_change_between_the_places_that_are_read_again(
    change: str, column: str, db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    update = f"ALTER TABLE {db.table} UPDATE {column} = {change.format(column)} WHERE id = 300"
    db.command(update, settings={"mutations_sync": 2})
    assert vectors_agree(db, merged, slices=1, slice_rows=10) is None
    figures = partition_figures(db, db.table, "shard = 0")
    assert (figures.rows, figures.fingerprint) == file_fingerprint(db.settings, merged)


def test_vectors_that_two_rows_exchanged_are_found(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    other = f"(SELECT image_embedding FROM {db.table} WHERE id = 301 + 300 - {{}})"
    db.command(
        f"ALTER TABLE {db.table} UPDATE image_embedding = if(id = 300, {other.format(300)}, {other.format(301)}) "
        "WHERE id IN (300, 301)",
        settings={"mutations_sync": 2},
    )
    assert vectors_agree(db, merged, slices=1, slice_rows=10) is None


def test_the_sum_over_vectors_is_the_same_of_blocks_of_a_file_and_in_sql(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 0)
    load_partition(db, merged)
    images = sample_shards[1].images.astype(np.float32)
    summed = vector_sum(np.arange(620, dtype=np.int64), images)
    assert merged.vector_sums["image_embedding"] == summed
    # A file from before the footer had the sums is read to compute them.
    assert vector_sums(db.settings, replace(merged, vector_sums={})) == merged.vector_sums
    assert partition_figures(db, db.table, "shard = 0").vector_sums == merged.vector_sums


def test_the_fingerprint_tells_every_change_of_a_text_or_a_score(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 0)
    loaded = load_partition(db, merged)
    assert (loaded.rows, loaded.fingerprint) == file_fingerprint(db.settings, merged)
    original = pq.read_table(merged.path)
    for name, value in (("url", "x"), ("caption", "x"), ("NSFW", "x"), ("similarity", 0.123), ("id", 249)):
        changed = with_column(original, name, [value, *original[name].to_pylist()[1:]])
        rewrite(merged, lambda _, changed=changed: changed)  # type: ignore[misc]
        assert file_fingerprint(db.settings, merged)[1] != loaded.fingerprint


def test_the_fingerprint_of_rows_in_another_order_is_the_same(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 0)
    loaded = load_partition(db, merged)
    rewrite(merged, lambda table: table.take(list(range(249, -1, -1))))
    assert file_fingerprint(db.settings, merged)[1] == loaded.fingerprint


def test_figures_of_a_partition_count_its_unsound_vectors(
    db: Database, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    load_partition(db, merged_from(sample_shards[2], 0))
    sound = partition_figures(db, db.table, "shard = 0")
    assert (sound.rows, sound.wrong_length, sound.unsound, sound.first_id, sound.last_id) == (250, 0, 0, 0, 249)
    db.command(f"INSERT INTO {db.table} (id, image_embedding, shard) VALUES (900, [1, nan], 0)")
    spoilt = partition_figures(db, db.table, "shard = 0")
    assert (spoilt.rows, spoilt.wrong_length, spoilt.unsound, spoilt.last_id) == (251, 1, 1, 900)


def test_extra_columns_of_every_type_reach_the_table_as_they_are(
    tmp_path: Path, sample_folder: Path, sample_shards: list[Shard]
) -> None:
    toml = tmp_path / "typed.toml"
    kinds = ("Bool", "Int8", "Int64", "UInt64", "Float32", "Float64", "String")
    declared = "".join(f'c_{kind} = {{ type = "{kind}", names = "{kind}" }}\n' for kind in kinds)
    toml.write_text(f'name = "sample"\nshards = 4\ndimension = 512\n[extra_columns]\n{declared}')
    settings = settings_for(tmp_path / "data", sample_folder, dataset_name=str(toml))
    store = ShardStore(settings.data_dir, settings.dataset)
    shard = sample_shards[2]
    values: dict[str, list[Any]] = {
        "Bool": [True, False],
        "Int8": [-128, 127],
        "Int64": [-(2**63), 2**63 - 1],
        "UInt64": [0, 2**64 - 1],
        "Float32": [0.1, math.inf],
        "Float64": [0.1, 1e300],
        "String": ["", "a\x00b"],
    }
    for kind, pair in values.items():
        kept = pa.uint64() if kind == "UInt64" else None
        shard = shard.with_column(kind, pa.array([*pair, *[pair[0]] * (shard.rows - 2)], kept))
    shard.place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0, extra_columns=settings.extra_column_types)
    with connect(settings) as db:
        load_partition(db, merged)
        names = ", ".join(f"c_{kind}" for kind in kinds)
        rows = db.rows(f"SELECT {names} FROM {db.table} ORDER BY id LIMIT 2")
        types = db.one(f"SELECT {', '.join(f'toTypeName(c_{kind})' for kind in kinds)} FROM {db.table} LIMIT 1")
    assert types == kinds
    single = [np.float32(value) for value in values["Float32"]]
    for row, found in enumerate(rows):
        expected = [single[row] if kind == "Float32" else values[kind][row] for kind in kinds]
        assert list(found) == expected
