"""Tests of metadata files: aliases of columns, nulls filled and counted, text byte for byte, damaged files refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laion_assets.columns import ColumnType
from laion_assets.dataset import Dataset, load_dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.metadata import MetadataReader
from laion_assets_tests.conftest import REAL, SAMPLE, Shard, assert_one_line, needs_real, sample_dataset

SUBJECT = "shard 0, metadata_0.parquet"
ROWS = 10


def plain(rows: int = ROWS, **columns: object) -> pa.Table:
    """Returns good metadata with some columns replaced; None removes a column."""
    sound: dict[str, object] = {
        "url": [f"https://example.org/{row}.jpg" for row in range(rows)],
        "caption": [f"caption {row}" for row in range(rows)],
        "NSFW": ["UNLIKELY"] * rows,
        "similarity": pa.array([0.3 + row / 1000 for row in range(rows)], pa.float64()),
    }
    return pa.table({name: values for name, values in (sound | columns).items() if values is not None})


def reader_of(
    path: Path, dataset: Dataset = SAMPLE, extra_columns: dict[str, ColumnType] | None = None
) -> MetadataReader:
    """Returns a reader of shard 0's metadata."""
    return MetadataReader(path, dataset, subject=SUBJECT, extra_columns=extra_columns)


def written(folder: Path, table: pa.Table, **options: object) -> Path:
    """Writes the table as a Parquet file."""
    path = folder / "metadata_0.parquet"
    pq.write_table(table, path, **options)
    return path


def read_all(reader: MetadataReader, block_rows: int = 4) -> dict[str, pa.ChunkedArray]:
    """Returns all blocks of a reader, joined; checks that each but the last has the requested size."""
    blocks = list(reader.blocks(block_rows))
    sizes = [len(block["url"]) for block in blocks]
    assert all(size == block_rows for size in sizes[:-1])
    assert all(not values.null_count for block in blocks for values in block.values())
    return {name: pa.chunked_array([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


def refusal(path: Path, *parts: str, dataset: Dataset = SAMPLE) -> ShardFileError:
    """Returns the error that refuses a file when it is opened or read: one line that names shard and file."""
    with pytest.raises(ShardFileError) as caught:
        read_all(reader_of(path, dataset))
    assert_one_line(caught.value, SUBJECT, *parts)
    assert len(str(caught.value)) < 1_200
    return caught.value


def as_bytes(column: pa.ChunkedArray) -> list[bytes]:
    """Returns the texts as bytes."""
    found: list[bytes] = column.cast(pa.binary()).to_pylist()
    return found


def test_only_the_columns_of_the_table_are_read(sample_folder: Path, sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    reader = reader_of(sample_folder / "metadata" / "metadata_1.parquet")
    read = read_all(reader, 100)
    assert list(read) == ["url", "caption", "NSFW", "similarity"]
    assert reader.rows == shard.rows
    for name in ("url", "caption", "NSFW"):
        assert as_bytes(read[name]) == shard.texts_of_column(name)
    expected = shard.table["similarity"].to_numpy().astype(np.float32)
    assert np.array_equal(read["similarity"].to_numpy(), expected, equal_nan=True)


@pytest.mark.parametrize("block_rows", [1, 3, 7, 10, 1_000])
@pytest.mark.parametrize("group_rows", [1, 4, 10])
def test_row_groups_and_blocks_of_any_size_give_the_same_rows(group_rows: int, block_rows: int, tmp_path: Path) -> None:
    table = plain()
    path = written(tmp_path, table, row_group_size=group_rows)
    read = read_all(reader_of(path), block_rows)
    assert read["url"].to_pylist() == table["url"].to_pylist()
    assert read["caption"].to_pylist() == table["caption"].to_pylist()


def test_a_file_without_rows_has_no_blocks(tmp_path: Path) -> None:
    assert read_all(reader_of(written(tmp_path, plain(0, NSFW=pa.array([], pa.string()))))) == {}


@pytest.mark.parametrize(
    ("column", "alias"),
    [
        *(("url", "URL"), ("url", "image_url"), ("caption", "TEXT"), ("caption", "text"), ("caption", "title")),
        *(("NSFW", "nsfw"), ("similarity", "clip_similarity_vitb32"), ("similarity", "clip_similarity_vitl14")),
    ],
)
def test_columns_are_found_under_the_names_that_releases_give_them(column: str, alias: str, tmp_path: Path) -> None:
    table = plain()
    path = written(tmp_path, table.rename_columns([alias if name == column else name for name in table.column_names]))
    reader = reader_of(path)
    assert reader.columns[column] == alias
    assert len(read_all(reader)[column]) == ROWS


def test_the_tables_own_name_goes_before_an_alias(tmp_path: Path) -> None:
    table = plain().append_column("TEXT", pa.array(["other"] * ROWS))
    assert reader_of(written(tmp_path, table)).columns["caption"] == "caption"


def test_a_dataset_names_its_columns_itself(tmp_path: Path) -> None:
    dataset = sample_dataset(columns={"caption": ["alt", "TEXT"]})
    table = plain().append_column("TEXT", pa.array(["described"] * ROWS))
    reader = reader_of(written(tmp_path, table), dataset)
    assert reader.columns["caption"] == "TEXT"
    assert read_all(reader)["caption"].to_pylist() == ["described"] * ROWS


def test_missing_columns_are_all_named_with_what_there_is_and_how_to_describe_it(tmp_path: Path) -> None:
    path = written(tmp_path, plain(url=None, similarity=None, path=["a"] * ROWS))
    error = refusal(path, "[columns]", "[defaults]")
    assert "url (looked for url, URL, image_url)" in error.found
    assert "similarity (looked for similarity, clip_similarity_vitb32" in error.found
    assert "caption (" not in error.found
    assert error.found.endswith("among: caption, NSFW, path")


def test_defaults_stand_in_for_columns_that_are_not_there(tmp_path: Path) -> None:
    dataset = sample_dataset(defaults={"NSFW": "unknown", "similarity": math.nan})
    reader = reader_of(written(tmp_path, plain(NSFW=None, similarity=None)), dataset)
    read = read_all(reader)
    assert (reader.columns["NSFW"], reader.columns["similarity"]) == (None, None)
    assert read["NSFW"].to_pylist() == ["unknown"] * ROWS
    assert np.isnan(read["similarity"].to_numpy()).all()
    assert not any(reader.nulls.by_column.values())


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = plain()
    doubled = pa.Table.from_arrays([*table.columns, table["url"]], names=[*table.column_names, "url"])
    refusal(written(tmp_path, doubled), "2 columns named url")


def test_nulls_are_filled_and_counted_by_column(tmp_path: Path) -> None:
    table = plain(
        url=[None, "", *["u"] * 8],
        caption=["c", None, None, *["c"] * 7],
        NSFW=[None] * 4 + ["NSFW"] * 6,
        similarity=pa.array([None, math.nan, *[0.3] * 8], pa.float64()),
    )
    reader = reader_of(written(tmp_path, table))
    read = read_all(reader)
    assert reader.nulls.by_column == {"url": 1, "caption": 2, "NSFW": 4, "similarity": 1}
    assert read["url"].to_pylist()[:3] == ["", "", "u"]
    assert read["caption"].to_pylist()[:4] == ["c", "", "", "c"]
    assert read["NSFW"].to_pylist() == [""] * 4 + ["NSFW"] * 6
    assert np.isnan(read["similarity"].to_numpy()[:2]).all()


def test_columns_of_nulls_only_are_filled(tmp_path: Path) -> None:
    table = plain(NSFW=pa.nulls(ROWS), similarity=pa.nulls(ROWS), caption=pa.nulls(ROWS))
    reader = reader_of(written(tmp_path, table))
    read = read_all(reader)
    assert read["caption"].to_pylist() == [""] * ROWS
    assert np.isnan(read["similarity"].to_numpy()).all()
    assert reader.nulls.by_column == {"url": 0, "caption": ROWS, "NSFW": ROWS, "similarity": ROWS}


AWKWARD = [
    b"NUL \x00 inside",
    b"\x00",
    b"\xff\xfe not UTF-8",
    b"half a character \xc3",
    b"\xed\xa0\x80 a surrogate",
    b"\xf0\x9f\xa6\x8a",
    b"line\nline\r\n\ttab",
    b"'\"\\N\\x00",
    b"",
    b" edge\xc2\xa0",
]
"""Captions as real ones are, and as a broken crawler leaves them."""


TEXT_KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_is_passed_on_byte_for_byte_also_when_it_is_not_utf8(kind: pa.DataType, tmp_path: Path) -> None:
    column = pc.cast(pa.array(AWKWARD), options=pc.CastOptions(kind, allow_invalid_utf8=True))
    read = read_all(reader_of(written(tmp_path, plain(caption=column, url=column))), 3)
    assert as_bytes(read["caption"]) == AWKWARD
    assert as_bytes(read["url"]) == AWKWARD
    assert read["caption"].type == pa.string()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.integers(1, 9))
def test_any_bytes_are_a_caption(tmp_path_factory: pytest.TempPathFactory, captions: list[bytes], block: int) -> None:
    table = plain(len(captions), caption=pa.array(captions, pa.binary()))
    assert as_bytes(read_all(reader_of(written(tmp_path_factory.getbasetemp(), table)), block)["caption"]) == captions


def test_dictionary_columns_are_decoded(tmp_path: Path) -> None:
    words = ["UNLIKELY", None, "NSFW", *["UNLIKELY"] * 7]
    table = plain(NSFW=pa.array(words).dictionary_encode())
    read = read_all(reader_of(written(tmp_path, table)), 3)
    assert read["NSFW"].to_pylist() == [word or "" for word in words]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_similarity_is_read_from_any_float(kind: pa.DataType, tmp_path: Path) -> None:
    values = [0.25, 0.5, 6016.0, -1.0, None, math.nan, math.inf, 0.0, 1.0, 2.0]
    column = pa.array(values, pa.float64(), from_pandas=False).cast(kind)
    read = read_all(reader_of(written(tmp_path, plain(similarity=column))))["similarity"].to_numpy()
    expected = np.array([math.nan if value is None else value for value in values], np.float32)
    assert np.array_equal(read, expected, equal_nan=True)


def test_similarity_beyond_float32_is_infinite_and_no_error(tmp_path: Path) -> None:
    table = plain(similarity=pa.array([1e300, 0.1, *[0.3] * 8], pa.float64()))
    read = read_all(reader_of(written(tmp_path, table)))["similarity"].to_numpy()
    assert (read[0], read[1]) == (math.inf, np.float32(0.1))


@pytest.mark.parametrize("kind", [pa.int64(), pa.int8()])
def test_similarity_may_be_whole_numbers(kind: pa.DataType, tmp_path: Path) -> None:
    table = plain(similarity=pa.array(range(ROWS), kind))
    assert read_all(reader_of(written(tmp_path, table)))["similarity"].to_pylist() == [
        float(row) for row in range(ROWS)
    ]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("url", pa.array(range(ROWS)), "column url: found type int64, expected text"),
        ("caption", pa.array([[1]] * ROWS), "column caption: found type int64"),
        ("caption", pa.array([{"a": 1}] * ROWS), "column caption: found type struct"),
        ("NSFW", pa.array([{"a": True}] * ROWS), "column NSFW: found type struct"),
        ("NSFW", pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int8())), "column NSFW: found type map"),
        ("similarity", pa.array(["high"] * ROWS), "column similarity: found "),
        ("similarity", pa.array([["a"]] * ROWS), "column similarity: found "),
        ("similarity", pa.array([{"a": 1}] * ROWS), "column similarity: found "),
    ],
)
def test_columns_of_another_type_are_refused_by_name(column: str, values: pa.Array, said: str, tmp_path: Path) -> None:
    refusal(written(tmp_path, plain(**{column: values})), said)


def test_extra_columns_are_read_with_the_tables_types(sample_folder: Path, sample_shards: list[Shard]) -> None:
    extra: dict[str, ColumnType] = {"width": "Int32", "LICENSE": "String", "shard_id": "Int64"}
    reader = reader_of(sample_folder / "metadata" / "metadata_2.parquet", extra_columns=extra)
    read = read_all(reader, 100)
    assert read["width"].type == pa.int32()
    assert read["shard_id"].to_pylist() == sample_shards[2].table["shard_id"].to_pylist()
    assert as_bytes(read["LICENSE"]) == sample_shards[2].texts_of_column("LICENSE")


def test_an_extra_column_of_null_and_too_large_numbers_is_filled_or_refused(tmp_path: Path) -> None:
    reader = reader_of(written(tmp_path, plain(width=pa.nulls(ROWS))), extra_columns={"width": "Int32"})
    assert read_all(reader)["width"].to_pylist() == [0] * ROWS
    assert reader.nulls.by_column["width"] == ROWS
    large = reader_of(written(tmp_path, plain(width=pa.array([2**40] * ROWS))), extra_columns={"width": "Int32"})
    with pytest.raises(ShardFileError, match=r"column width: found .*1099511627776.* in row 0"):
        read_all(large)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, None, False, *[True] * 7]), ["true", "", "false"]),
        (pa.array([1, None, 0, *[2] * 7]), ["1", "", "0"]),
        (pa.array([0.5, math.nan, None, *[0.0] * 7]), ["0.5", "", ""]),
        (pa.array([["UNSURE", "NSFW"], [], None, *[["NSFW"]] * 7]), ["UNSURE", "", ""]),
        (pa.array([[None, "NSFW"], ["a"], None, *[["NSFW"]] * 7]), ["", "a", ""]),
        (pa.array([["a", "b"], ["c", None], None, *[["b", "c"]] * 7], pa.list_(pa.string(), 2)), ["a", "c", ""]),
        (pa.array([None] * ROWS, pa.list_(pa.null())), ["", "", ""]),
        (pa.array([[]] * ROWS, pa.list_(pa.null())), ["", "", ""]),
        (pa.array([1.5] * ROWS).dictionary_encode(), ["1.5"] * 3),
    ],
    ids=["bool", "int", "float", "lists", "lists of null", "lists of two", "null lists", "empty lists", "dictionary"],
)
def test_nsfw_is_read_whatever_its_type(values: pa.Array, expected: list[str], tmp_path: Path) -> None:
    read = read_all(reader_of(written(tmp_path, plain(NSFW=values))), 4)
    assert read["NSFW"].to_pylist()[:3] == expected


def test_of_a_list_of_captions_the_first_is_taken(tmp_path: Path) -> None:
    captions = [["a dog", "a brown dog"], ["a cat"], [], None, *[["x", "y"]] * 6]
    reader = reader_of(written(tmp_path, plain(caption=pa.array(captions))))
    assert read_all(reader, 3)["caption"].to_pylist()[:5] == ["a dog", "a cat", "", "", "x"]
    assert reader.nulls.by_column["caption"] == 2


EXTRA = Dataset.model_validate(
    SAMPLE.model_dump()
    | {
        "extra_columns": {
            "safe": {"type": "Float32", "names": ["punsafe", "p_unsafe"], "default": -1.0},
            "seen": "Bool",
            "count": {"type": "UInt8", "default": 7},
        },
        "columns": {"md5": "sha256"},
        "defaults": {"LANGUAGE": "en"},
    }
)


def test_a_dataset_declares_extra_columns_with_type_default_and_names(tmp_path: Path) -> None:
    table = plain(p_unsafe=pa.array([0.25, None, *[0.5] * 8]), seen=[1, 0] * 5, sha256=["ab"] * ROWS)
    types: dict[str, ColumnType] = {
        **{"safe": "Float32", "seen": "Bool", "count": "UInt8"},
        **{"md5": "String", "LANGUAGE": "String"},
    }
    reader = reader_of(written(tmp_path, table), EXTRA, types)
    read = read_all(reader)
    assert read["safe"].to_pylist()[:3] == [0.25, -1.0, 0.5]
    assert read["seen"].to_pylist()[:2] == [True, False]
    assert read["count"].to_pylist() == [7] * ROWS
    assert read["md5"].to_pylist() == ["ab"] * ROWS
    assert read["LANGUAGE"].to_pylist() == ["en"] * ROWS
    assert reader.nulls.by_column["safe"] == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([640.0] * 7 + [3e9] + [1.0] * 2, "3000000000.0 in row 7, expected whole numbers of Int32"),
        ([640.0] * 7 + [640.7] + [1.0] * 2, "640.7 in row 7"),
        ([640.0] * 9 + [math.inf], "inf in row 9"),
        ([640] * 9 + [2**31], "2147483648 not in range: -2147483648 to 2147483647 in row 9"),
        (["640"] * 5 + ["wide"] + ["1"] * 4, "'wide' as a scalar of type int32 in row 5"),
    ],
)
def test_a_number_that_does_not_fit_its_column_is_refused_with_its_row(
    values: list[object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ShardFileError) as caught:
        read_all(reader_of(written(tmp_path, plain(width=values)), extra_columns={"width": "Int32"}), 4)
    assert_one_line(caught.value, "column width", said, "under [extra_columns]")


@pytest.mark.parametrize("values", [[640.0, math.nan, *[1.0] * 8], ["640", "", *["1"] * 8], [640, None, *[1] * 8]])
def test_what_is_missing_among_numbers_is_null_and_counted(values: list[object], tmp_path: Path) -> None:
    reader = reader_of(written(tmp_path, plain(width=values)), extra_columns={"width": "Int32"})
    assert read_all(reader)["width"].to_pylist() == [640, 0, *[1] * 8]
    assert reader.nulls.by_column["width"] == 1


def declared(kind: ColumnType) -> Dataset:
    """Returns a dataset with an extra column of this type."""
    return sample_dataset(extra_columns={"seen": kind})


@pytest.mark.parametrize(
    "values",
    [
        [1.0, math.nan, *[0.0] * 8],
        pa.array([1.0, math.nan, *[0.0] * 8], pa.float32()),
        [1, None, *[0] * 8],
        [True, None, *[False] * 8],
        ["true", "", *["0"] * 8],
        pa.array([1, None, *[0] * 8], pa.int64()).cast(pa.decimal128(30, 2)),
    ],
)
def test_a_truth_value_that_is_missing_is_null_and_counted(values: object, tmp_path: Path) -> None:
    reader = reader_of(written(tmp_path, plain(seen=values)), declared("Bool"), {"seen": "Bool"})
    assert read_all(reader)["seen"].to_pylist() == [True, False, *[False] * 8]
    assert reader.nulls.by_column["seen"] == 1


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("Bool", [1, 0, 0, 0, 0, 2, *[1] * 4], "2 in row 5, expected 0 or 1"),
        ("Bool", [1, 0, 0, 0, 0, -1, *[1] * 4], "-1 in row 5, expected 0 or 1"),
        ("Bool", [1.0, 0.0, 0.0, math.nan, 0.0, 0.5, *[1.0] * 4], "0.5 in row 5, expected 0 or 1"),
        ("Float32", [1, 0, 0, 0, 0, 2**24 + 1, *[1] * 4], "16777217 not in range: -16777216 to 16777216 in row 5"),
        ("Float64", [1, 0, 0, 0, 0, 2**53 + 1, *[1] * 4], "9007199254740993 not in range"),
    ],
)
def test_a_number_that_its_column_would_change_is_refused_with_its_row(
    kind: ColumnType, values: list[object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ShardFileError) as caught:
        read_all(reader_of(written(tmp_path, plain(seen=values)), declared(kind), {"seen": kind}))
    assert_one_line(caught.value, "column seen", said, "under [extra_columns]")


@pytest.mark.parametrize("rows", [1, 8_192, 8_193, 20_000])
def test_a_file_with_none_of_the_columns_has_the_defaults_for_every_row(rows: int, tmp_path: Path) -> None:
    defaults = {"url": "", "caption": "none", "NSFW": "", "similarity": math.nan}
    table = pa.table({"x": range(rows)})
    read = read_all(reader_of(written(tmp_path, table, row_group_size=5_000), sample_dataset(defaults=defaults)), 8_192)
    assert read["caption"].to_pylist() == ["none"] * rows


def test_an_extra_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardFileError, match=r"no column for md5 \(looked for md5\)"):
        reader_of(written(tmp_path, plain()), extra_columns={"md5": "String"})


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"\x93NUMPY\x01\x00", b"<html>not found</html>", b"PAR1" + b"\x00" * 40 + b"PAR1"],
)
def test_a_file_that_is_no_parquet_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metadata_0.parquet"
    path.write_bytes(content)
    refusal(path, "a sound Parquet file")


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "metadata_0.parquet", "a sound Parquet file")


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, plain())
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 1, len(content) - 9):
        path.write_bytes(content[:size])
        refusal(path, "a sound Parquet file")


def test_a_corrupt_page_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    table = plain(2_000, caption=[rng.bytes(30).hex() for _ in range(2_000)])
    path = written(tmp_path, table, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(table.column_names.index("caption"))
    start = chunk.data_page_offset
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    refusal(path, "a sound Parquet file", "fetch the file again")


def footer_of(content: bytes) -> int:
    """Returns the offset at which the footer of a Parquet file begins."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


@pytest.fixture(scope="module")
def sound_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A good file of 50 rows."""
    return written(tmp_path_factory.mktemp("sound"), plain(50), compression="snappy").read_bytes()


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    sound_bytes: bytes, tmp_path: Path, in_footer: bool, damage: list[tuple[float, int]]
) -> None:
    path = tmp_path / "metadata_0.parquet"
    content = bytearray(sound_bytes)
    first = footer_of(sound_bytes) if in_footer else 0
    for place, value in damage:
        content[first + int(place * (len(content) - first))] = value
    path.write_bytes(content)
    try:
        reader = reader_of(path)
        blocks = list(reader.blocks(16))
    except ShardFileError as error:
        assert_one_line(error, "shard 0, metadata_0.parquet")
    else:
        assert sum(len(block["url"]) for block in blocks) == reader.rows


def test_a_footer_that_promises_more_rows_than_there_are_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, plain(300), compression="none", use_dictionary=False, write_statistics=False)
    content = path.read_bytes()
    footer = footer_of(content)
    # Thrift's compact protocol writes 300 as the zigzag varint 600, and 400 as 800. The footer has the file's rows
    # first, then the number of values of each column, then the rows of the group.
    told = content[footer:].replace(varint(600), varint(800))
    assert told != content[footer:]
    path.write_bytes(content[:footer] + told)
    assert pq.read_metadata(path).num_rows == 400
    refusal(path)


def varint(number: int) -> bytes:
    """Returns a number in the two bytes that Thrift writes."""
    return bytes([number & 0x7F | 0x80, number >> 7])


def test_a_footer_whose_total_is_not_that_of_its_row_groups_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, plain(300), compression="none", use_dictionary=False, write_statistics=False)
    content = path.read_bytes()
    footer = footer_of(content)
    path.write_bytes(content[:footer] + content[footer:].replace(varint(600), varint(800), 1))
    assert pq.read_metadata(path).num_rows == 400
    refusal(path, "300 rows", "400, as its footer says")


def test_text_so_long_that_it_is_no_caption_is_refused_before_it_is_read(tmp_path: Path) -> None:
    packed = written(tmp_path, plain(caption=["x" * 70_000_000, *["y"] * 9]), compression="zstd", use_dictionary=False)
    assert packed.stat().st_size < 100_000
    refusal(packed, "bytes of text in 10 rows", "at most 65,536 a row")


def test_a_long_caption_among_short_ones_is_read(tmp_path: Path) -> None:
    captions = ["x" * 1_000_000, *["y"] * 9]
    assert read_all(reader_of(written(tmp_path, plain(caption=captions))))["caption"].to_pylist() == captions


def test_ten_thousand_columns_are_no_hindrance_and_not_all_listed(tmp_path: Path) -> None:
    wide = pa.table({f"column_{number}": ["x"] * 2 for number in range(10_000)})
    table = plain(2)
    both = pa.Table.from_arrays([*wide.columns, *table.columns], names=[*wide.column_names, *table.column_names])
    assert len(read_all(reader_of(written(tmp_path, both)))["url"]) == 2
    assert refusal(written(tmp_path, wide)).found.endswith("column_19 and 9980 more")


@needs_real
def test_genuine_captions_are_read_byte_for_byte(tmp_path: Path) -> None:
    path = REAL / "captions_10000.parquet"
    table = pq.read_table(path)
    dataset = sample_dataset(defaults={"NSFW": "", "similarity": math.nan})
    reader = reader_of(path, dataset)
    read = read_all(reader, 777)
    for column, name in reader.columns.items():
        if name is not None and pa.types.is_string(table[name].type):
            assert as_bytes(read[column]) == [text or b"" for text in as_bytes(table[name])]


@needs_real
def test_the_genuine_triple_says_which_columns_it_lacks() -> None:
    with pytest.raises(ShardFileError) as caught:
        reader_of(REAL / "clip_retrieval_triple" / "metadata_0.parquet", load_dataset("laion400m"))
    assert_one_line(caught.value, 'url = "image_path"', 'NSFW = "", similarity = nan')
    assert "url (looked for" in caught.value.found
    assert "NSFW (looked for" in caught.value.found
    assert "similarity (looked for" in caught.value.found
    assert "caption (looked for" not in caught.value.found
    assert caught.value.found.endswith("among: image_path, caption")
