"""Tests datasets: presets with their known sizes, file names, selections of shards, valid and invalid TOML files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laion_assets.dataset import Dataset, load_dataset, parse_dataset, preset_names, preset_text
from laion_assets.errors import DatasetError
from laion_assets.file_layout import Slice
from laion_assets_tests.conftest import REPOSITORY, assert_one_line, at_most_bytes

LAION400M = load_dataset("laion400m")
FACTS = REPOSITORY.parent / "shared" / "facts" / "laion400m_shards.json"
MINIMAL = 'name = "mine"\nshards = 3\ndimension = 8\n'


def refusal(toml: str) -> DatasetError:
    """Parses an invalid dataset file and returns its error, which must be one line."""
    with pytest.raises(DatasetError) as caught:
        parse_dataset(toml, "mine.toml")
    assert_one_line(caught.value, "dataset file mine.toml")
    return caught.value


def test_the_presets_are_valid_datasets_under_their_own_names() -> None:
    pools = {"datacomp-small", "datacomp-medium", "datacomp-large"}
    others = {"laion400m", "laion2b-en", "laion5b-100m", "vdbbench-laion-100m", "sample"}
    assert pools | others == set(preset_names())
    for name in others:
        assert load_dataset(name).name == name
    for name in pools:
        with pytest.raises(DatasetError, match=f"describe {name} --output {name}.toml --lock"):
            load_dataset(name)
        assert parse_dataset(f'names = ["7c"]\n{preset_text(name)}', name).file_name("image", 0) == "7c.npz"


def test_laion400m_has_407_million_rows_in_410_shards() -> None:
    assert len(LAION400M.shards) == 410
    assert sum(LAION400M.known_rows(shard) or 0 for shard in range(410)) == 407_314_954
    assert LAION400M.known_rows(0) == 1_000_448
    assert LAION400M.known_rows(408) == 1_000_501
    assert (LAION400M.dimension, LAION400M.dtype, LAION400M.normalised) == (512, "<f2", True)


def test_laion400m_knows_the_bytes_of_its_npy_files_and_not_of_its_metadata() -> None:
    assert LAION400M.expected_bytes("image", 0) == 1_024_458_880
    assert LAION400M.expected_bytes("text", 8) == 658_099_328
    assert LAION400M.expected_bytes("metadata", 0) is None


@pytest.mark.skipif(not FACTS.is_file(), reason=f"the published sizes are not at {FACTS}")
def test_laion400m_sizes_are_those_that_tensorflow_datasets_publishes() -> None:
    facts = json.loads(FACTS.read_text())
    assert facts["shards"] == len(LAION400M.shards)
    for shard in LAION400M.shards:
        published = facts["exceptions"].get(str(shard), facts["default"])
        assert LAION400M.known_rows(shard) == published["rows"]
        assert LAION400M.expected_bytes("image", shard) == published["bytes"]


def test_laion400m_is_looked_for_at_both_hosts_in_their_own_folders() -> None:
    deploy, eye = LAION400M.sources
    assert deploy.url == "https://deploy.laion.ai/8f83b608504d46bb81708ec86e912220/embeddings"
    assert [deploy.folders.of(kind) for kind in LAION400M.file_kinds] == ["img_emb", "text_emb", "metadata"]
    assert eye.url == "https://the-eye.eu/public/AI/cah/laion400m-met-release/laion400m-embeddings"
    assert [eye.folders.of(kind) for kind in LAION400M.file_kinds] == ["images", "texts", "metadata"]


def test_laion2b_has_2314_shards_of_768_dimensions_whose_rows_nobody_knows() -> None:
    dataset = load_dataset("laion2b-en")
    assert (len(dataset.shards), dataset.dimension, dataset.digits) == (2314, 768, 4)
    assert dataset.known_rows(0) is None
    assert dataset.expected_bytes("image", 0) is None


def test_file_names_are_padded_as_the_dataset_says() -> None:
    assert LAION400M.file_name("image", 7) == "img_emb_7.npy"
    assert LAION400M.file_name("text", 409) == "text_emb_409.npy"
    assert LAION400M.file_name("metadata", 0) == "metadata_0.parquet"
    padded = load_dataset("laion2b-en")
    assert padded.file_name("image", 7) == "img_emb_0007.npy"
    assert padded.file_name("metadata", 2313) == "metadata_2313.parquet"


def test_partition_keys_are_shard_numbers_in_numeric_order() -> None:
    assert LAION400M.shard_keys[:3] == ["0", "1", "2"]
    assert LAION400M.shard_keys[9:12] == ["9", "10", "11"]
    assert LAION400M.shard_keys[-1] == "409"
    assert load_dataset("laion2b-en").shard_keys[7] == "7"


@pytest.mark.parametrize(
    ("selection", "shards"),
    [
        ("0-9", list(range(10))),
        ("3", [3]),
        ("1,4,7-9", [1, 4, 7, 8, 9]),
        ("9,1,9,0-1", [0, 1, 9]),
        (" 1 , 4 - 5 ", [1, 4, 5]),
        ("409", [409]),
        ("5-5", [5]),
    ],
)
def test_selections_give_their_shards_sorted_and_each_once(selection: str, shards: list[int]) -> None:
    assert LAION400M.shard_numbers(selection) == shards


@pytest.mark.parametrize(
    "selection",
    [
        *("9-0", "007", "²", "٣", "", ",", "1,", "-", "-1", "1-", "410", "0-410", "1.0", "1e2", "a", "0x1", "1-2-3"),
        *("+1", "9" * 5_000),
    ],
)
def test_selections_that_name_no_shards_are_refused_in_one_line(selection: str) -> None:
    with pytest.raises(DatasetError) as caught:
        LAION400M.shard_numbers(selection)
    assert_one_line(caught.value, "dataset laion400m")


def test_a_shard_beyond_the_last_is_refused_with_the_range() -> None:
    with pytest.raises(DatasetError, match=r"found shard '410', expected 0 to 409"):
        LAION400M.shard_number("410")


HOLES = parse_dataset('name = "holes"\nshards = "1-2,4,7-9"\ndimension = 8\n', "holes.toml")


@pytest.mark.parametrize(
    ("written", "shards"),
    [
        ("3", (0, 1, 2)),
        ('"1-3"', (1, 2, 3)),
        ('"0-1, 7"', (0, 1, 7)),
        ("[9, 1, 4, 4]", (1, 4, 9)),
        ('"5"', (5,)),
        ('"2-4,0-3"', (0, 1, 2, 3, 4)),
        ('"65535"', (65_535,)),
    ],
)
def test_numbers_of_shards_may_have_holes_and_begin_anywhere(written: str, shards: tuple[int, ...]) -> None:
    dataset = parse_dataset(f'name = "x"\nshards = {written}\ndimension = 8\n', "x.toml")
    assert dataset.shards == shards
    assert dataset.shard_keys == [str(shard) for shard in shards]


@pytest.mark.parametrize("written", ["true", "[]", '""', '"3-1"', '"1-65536"', "[-1]", '["1"]', '"01"', "{ a = 1 }"])
def test_numbers_that_are_none_are_refused(written: str) -> None:
    assert "shards: " in refusal(f'name = "x"\nshards = {written}\ndimension = 8\n').found


def test_a_range_of_a_selection_takes_what_there_is_in_it() -> None:
    assert HOLES.shard_numbers("0-4") == [1, 2, 4]
    assert HOLES.shard_numbers("all") == [1, 2, 4, 7, 8, 9]
    assert HOLES.shard_keys[-1] == "9"
    for selection in ("3", "0", "5-6", "0-10", "1,3"):
        with pytest.raises(DatasetError, match=r"1-2, 4, 7-9"):
            HOLES.shard_numbers(selection)
    assert "rows names shards [3]" in refusal('name = "x"\nshards = "1-2"\ndimension = 8\nrows = { 3 = 1 }\n').found


def test_extra_columns_are_declared_with_type_default_and_names() -> None:
    text = MINIMAL + '[extra_columns]\nseen = "Bool"\nscore = { type = "Float64", default = 0.5, names = "SCORE" }\n'
    dataset = parse_dataset(text, "x.toml")
    assert dataset.aliases("score") == ("SCORE",)
    assert (dataset.default("score"), dataset.default("seen")) == (0.5, None)
    assert dataset.aliases("seen") == ("seen",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('url = "String"', "url is a column that every table has"),
        ('shard = "Int8"', "shard is a column that every table has"),
        ('"a b" = "String"', "letters, digits and underscores"),
        ('a = "Decimal"', "extra_columns.a"),
        ('a = { type = "UInt8", default = 256 }', "default 256 is no UInt8"),
        ('a = { type = "String", default = 1 }', "default 1 is no String"),
        ('a = { kind = "String" }', "extra_columns.a.kind"),
    ],
)
def test_a_wrong_extra_column_is_named(line: str, said: str) -> None:
    assert said in refusal(f"{MINIMAL}[extra_columns]\n{line}\n").found


@given(st.text(max_size=30))
def test_any_selection_gives_shards_of_the_dataset_or_an_error_of_ours(selection: str) -> None:
    try:
        shards = LAION400M.shard_numbers(selection)
    except DatasetError:
        return
    assert shards == sorted(set(shards))
    assert shards
    assert set(shards) <= set(range(410))


def test_a_dataset_needs_a_name_a_number_of_shards_and_a_dimension() -> None:
    dataset = parse_dataset(MINIMAL, "mine.toml")
    assert (dataset.name, dataset.shards, dataset.dimension) == ("mine", (0, 1, 2), 8)
    assert dataset.file_name("image", 2) == "img_emb_2.npy"
    error = refusal("")
    for field in ("name", "shards", "dimension"):
        assert f"{field}: Field required" in error.found


def test_a_dataset_file_says_everything_about_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        name = "mine"
        shards = 12
        digits = 2
        image_file = "images-{shard}.npy"
        metadata_file = "{shard}.parquet"
        dimension = 8
        dtype = "float32"
        normalised = false
        has_text = false
        columns = { url = "image_path", caption = ["TITLE", "title"] }
        defaults = { NSFW = "", similarity = nan }
        default_rows = 100
        rows = { 11 = 7 }
        [[sources]]
        url = "https://example.org/mine"
        folders = { image = "i", text = "t", metadata = "m" }
        """,
        encoding="utf-8",
    )
    dataset = load_dataset(str(path))
    assert dataset.file_name("image", 3) == "images-03.npy"
    assert dataset.file_name("metadata", 3) == "03.parquet"
    assert dataset.file_kinds == ("image", "metadata")
    assert dataset.vector_columns == ("image_embedding",)
    assert dataset.dtype == np.dtype(np.float32).str
    assert dataset.aliases("url") == ("image_path",)
    assert dataset.aliases("caption") == ("TITLE", "title")
    assert "similarity" in dataset.aliases("similarity")
    assert (dataset.known_rows(0), dataset.known_rows(11)) == (100, 7)
    assert dataset.expected_bytes("image", 11) == 128 + 7 * 8 * 4
    assert dataset.sources[0].folders.of("image") == "i"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('name = ""', "name: "),
        ("name = 3", "name: "),
        ("shards = 0", "shards: "),
        ("shards = 65537", "shards: "),
        ('shards = "many"', "shards: "),
        ("shards = 1.5", "shards: "),
        ("digits = 0", "digits: "),
        ("digits = 10", "digits: "),
        ("dimension = 0", "dimension: "),
        ("dimension = -8", "dimension: "),
        ('dtype = "int8"', "dtype: 'int8' is not a float of 2, 4 or 8 bytes"),
        ('dtype = "object"', "dtype: 'object' is not a float"),
        ('dtype = "f16"', "dtype: 'f16' is not a float"),
        ('dtype = "nonsense"', "dtype: 'nonsense' is no numpy dtype"),
        ('dtype = "f2,f2"', "dtype: "),
        ('normalised = "perhaps"', "normalised: "),
        ("has_text = 7", "has_text: "),
        ('image_file = "img.npy"', "image_file: a file name has {shard}, {file} or {name} in it once"),
        ('text_file = "{shard}{shard}"', "text_file: a file name has {shard}, {file} or {name} in it once"),
        ('metadata_file = "../{shard}.parquet"', "metadata_file: a file name has {shard}, {file} or {name} in it once"),
        ('image_file = "{shard}{0}"', "image_file: a file name has {shard}, {file} or {name} in it once"),
        ('columns = "url"', "columns: "),
        ("columns = { url = 3 }", "columns.url: "),
        ('columns = { address = "url" }', "columns names ['address']"),
        ('defaults = { height = "0" }', "defaults.height: '0' is no Int32"),
        ('defaults = { NSFW = ["a"] }', "defaults.NSFW"),
        ("default_rows = -1", "default_rows: "),
        ("default_rows = 10000001", "default_rows: "),
        ("rows = { 9 = 100 }", "rows names shards [9] outside 0 to 2"),
        ("rows = { a = 100 }", "rows.a"),
        ('rows = { 1 = "all" }', "rows.1: "),
        ('sources = "https://example.org"', "sources: "),
        ("sources = [{}]", "sources.0.url: Field required"),
        ('sources = [{ url = "x", folders = { images = "i" } }]', "sources.0.folders.images: "),
        ("clip_model = 1", "clip_model: "),
        ("description = 1", "description: "),
        ('colour = "blue"', "colour: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(line: str, said: str) -> None:
    field = line.partition(" ")[0]
    kept = "".join(each + "\n" for each in MINIMAL.splitlines() if not each.startswith(f"{field} "))
    assert said in refusal(kept + line + "\n").found


def test_several_wrong_fields_are_all_named() -> None:
    found = refusal('name = "mine"\nshards = 0\ndimension = 0\nbogus = 1\n').found
    for field in ("shards", "dimension", "bogus"):
        assert f"{field}: " in found


def test_a_default_that_its_column_cannot_take_is_refused() -> None:
    assert "similarity" in refusal(MINIMAL + 'defaults = { similarity = "high" }\n').found
    assert "NSFW" in refusal(MINIMAL + "defaults = { NSFW = 3.0 }\n").found


def test_a_known_row_count_that_no_shard_can_have_is_refused() -> None:
    assert "rows" in refusal(MINIMAL + "rows = { 1 = -5 }\n").found
    assert "rows" in refusal(MINIMAL + "rows = { 1 = 10000001 }\n").found


CUT = 'image_file = "p_{file}.parquet"\nmetadata_file = "p_{file}.parquet"\nimage_array = "v"\nhas_text = false\n'
NPZ = 'image_file = "{name}.npz"\ntext_file = "{name}.npz"\nmetadata_file = "{name}.parquet"\n'
NPZ += 'image_array = "i"\ntext_array = "t"\n'


def test_shards_may_be_shares_of_larger_files() -> None:
    cut = parse_dataset(MINIMAL.replace("3", "30") + CUT + "shards_per_file = 10\nfirst_file = 1\ndigits = 2\n", "x")
    assert cut.file_kinds == ("metadata",)
    assert (cut.remote_name("metadata", 0), cut.slice_of(0)) == ("p_01.parquet", Slice(0, 10))
    assert (cut.remote_name("metadata", 29), cut.slice_of(29)) == ("p_03.parquet", Slice(9, 10))
    assert cut.file_name("metadata", 29) == "p_03.shard-29.share-9-of-10.parquet"


def test_shards_may_have_names() -> None:
    listed = parse_dataset('name = "x"\ndimension = 8\nnames = ["a", "00/b"]\n' + NPZ, "x")
    assert listed.shards == (0, 1)
    assert listed.file_kinds == ("text", "metadata")
    assert (listed.remote_name("text", 1), listed.file_name("text", 1)) == ("00/b.npz", "00%2Fb.npz")
    numbered = parse_dataset('name = "x"\ndimension = 8\n' + NPZ + '[names]\n7 = "a"\n9 = "b"\n', "x")
    assert numbered.shards == (7, 9)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("shards_per_file = 2\n", "{file}"),
        ("first_file = 1\n", "first_file"),
        (CUT.replace('image_array = "v"\n', ""), "image_array must name the column"),
        (CUT.replace("p_{file}", "p_{shard}") + "shards_per_file = 2\n", "{file}"),
        (CUT.replace('e = "p_{file}', 'e = "q_{file}', 1) + "shards_per_file = 2\n", "one Parquet file"),
        (CUT + "shards_per_file = 0\n", "shards_per_file: "),
        ('image_array = "v"\n', "image_array names an array of an npz or HDF5 file"),
        (NPZ, "the one needs the other"),
        ('names = ["a"]\n', "the one needs the other"),
        (NPZ + 'names = ["a"]\n', "no name for shard 1"),
        (NPZ + 'names = ["a", "b", "a"]\n', "'a' is there twice"),
        (NPZ + 'names = ["a", "../b", "c"]\n', "no relative path"),
        (NPZ + 'names = ["a", "/b", "c"]\n', "no relative path"),
        (NPZ + 'names = ["a", "b\\\\c", "c"]\n', "no relative path"),
        (NPZ + 'names = { x = "a" }\n', "names"),
        (NPZ.replace('text_array = "t"', 'text_array = "i"') + 'names = ["a", "b", "c"]\n', "image_file and text_file"),
        (NPZ.replace('text_array = "t"\n', "").replace('image_array = "i"\n', ""), "image_file and text_file"),
        ('image_file = "{name}.npy"\nnames = ["a", "b", "c"]\n', "{name} and {shard}"),
        ('image_file = "a{shard}{shard}.npy"\n', "in it once"),
        ('image_file = "a{shard}{file}.npy"\n', "in it once"),
        ('image_file = "{shard}.parquet"\nmetadata_file = "{shard}.parquet"\n', "image_array must name"),
        ('image_file = "{shard}.pq"\nmetadata_file = "{shard}.pq"\n', "image_file and metadata_file"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_in_one_line(lines: str, said: str) -> None:
    assert said in refusal(MINIMAL + lines).found


def test_the_three_files_of_a_shard_have_three_names() -> None:
    assert "file" in refusal(MINIMAL + 'image_file = "e_{shard}.npy"\ntext_file = "e_{shard}.npy"\n').found


@pytest.mark.parametrize(
    "toml",
    ["name = ", "[[[", "\x00", "a = 1\na = 2\n", "a = " + "[" * 3_000, "a = 1e", 'x = "\\ud800"', "d = 1979-13-41"],
)
def test_what_is_not_toml_is_refused_in_one_line(toml: str) -> None:
    assert "valid TOML" in refusal(toml).expected


def test_an_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset("laion5b")
    assert_one_line(caught.value, "'laion5b'", "laion2b-en, laion400m, laion5b-100m, sample", ".toml")


def test_a_dataset_file_that_cannot_be_read_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"\n')
    (tmp_path / "folder.toml").mkdir()
    for name in ("absent.toml", "latin.toml", "folder.toml"):
        with pytest.raises(DatasetError) as caught:
            load_dataset(str(tmp_path / name))
        assert_one_line(caught.value, str(tmp_path / name), "a TOML file in UTF-8")


FIELDS = [*Dataset.model_fields, "bogus"]
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["<f2", "V8", "O", "M8[ns]", "(2,)f4", "f4,f4", "{shard}", "img_{shard}.npy", "\x00{shard}"]),
)
FUZZ_BYTES = 4 << 20
"""Parsing a text of a few hundred characters must not take more memory."""

VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["url", "NSFW", "1", "-1", "folders", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_dataset_or_an_error_of_ours(text: str) -> None:
    try:
        with at_most_bytes(FUZZ_BYTES):
            parse_dataset(text, "hostile.toml")
    except DatasetError as error:
        assert_one_line(error)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6))
def test_any_toml_is_a_dataset_or_an_error_of_ours(fields: Mapping[str, object]) -> None:
    text = 'name = "x"\nshards = 2\ndimension = 4\n' if not {"name", "shards", "dimension"} & set(fields) else ""
    text += "".join(f"{name} = {as_toml(value)}\n" for name, value in fields.items())
    try:
        with at_most_bytes(FUZZ_BYTES):
            dataset = parse_dataset(text, "hostile.toml")
    except DatasetError as error:
        assert_one_line(error)
    else:
        assert dataset.shard_numbers("0") == [0]
        for kind in dataset.file_kinds:
            assert "/" not in dataset.file_name(kind, 0)


def as_toml(value: object) -> str:
    """A value in TOML syntax."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return json.dumps(value, ensure_ascii=True) if value.isprintable() and value.isascii() else "'?'"
        case list():
            return f"[{', '.join(map(as_toml, value))}]"
        case dict():
            return "{" + ", ".join(f'"{name}" = {as_toml(inner)}' for name, inner in value.items()) + "}"
        case _:
            return str(value)
