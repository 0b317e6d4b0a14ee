"""Tests of searching: exact answers equal numpy's, filters work, and searches that cannot be answered are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from laion_assets.errors import SearchError, TableError
from laion_assets.searching.statement import SearchRequest, checked_by, checked_vector, search, vector_of
from laion_assets.searching.vector_file import read_vector_file
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.vectors import By, vector_sql
from laion_assets_tests.conftest import Shard, Transport, assert_one_line, settings_for

EXACT = SearchRequest(exact=True)
PAGE_SQL = "SELECT url, caption FROM laion ORDER BY cosineDistance(image_embedding, {target:Array(Float32)}) LIMIT 10"
"""The query of ClickHouse's page, unchanged."""


@pytest.fixture(scope="module")
def db(
    sample_folder: Path, sample_shards: list[Shard], tmp_path_factory: pytest.TempPathFactory, transport: Transport
) -> Iterator[Database]:
    """A connection, open for this module, to a table of shards 0 and 1; the last caption of shard 1 is not UTF-8."""
    settings = settings_for(tmp_path_factory.mktemp("search"), sample_folder, **transport.fresh())
    store = ShardStore(settings.data_dir, settings.dataset)
    captions = sample_shards[1].texts_of_column("caption")
    captions[-1] = b"caf\xe9 \xff"
    odd = sample_shards[1].with_column("caption", pa.array(captions, pa.binary()).view(pa.string()))
    with connect(settings) as opened:
        for number, shard in enumerate((sample_shards[0], odd)):
            shard.place(store, number)
            load_partition(opened, merge_shard(store, number, max_bad_fraction=0))
        yield opened


def distances(vectors: npt.NDArray[Any], target: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Returns the cosine distances that numpy computes."""
    wide, aim = vectors.astype(np.float64), target.astype(np.float64)
    found: npt.NDArray[np.float64] = 1 - wide @ aim / (np.linalg.norm(wide, axis=1) * np.linalg.norm(aim))
    return found


def test_a_query_vector_reaches_the_engine_bit_for_bit(db: Database) -> None:
    random = np.random.default_rng(0).standard_normal(480).astype(np.float32)
    odd = np.array([0, -0.0, 1, -1, 1 / 3, 2**-24, 65504, 1e-38, 3.4e38, np.float32(np.pi)] * 3 + [7, 8], np.float32)
    vector = np.concatenate([random, odd])
    (found,) = db.one(f"SELECT {vector_sql(vector)}")
    assert np.asarray(found, np.float32).tobytes() == vector.tobytes()


@pytest.mark.parametrize("by", ["image", "text"])
@pytest.mark.parametrize("limit", [1, 10, 100, 1_000])
def test_an_exact_search_finds_what_numpy_finds(by: By, limit: int, db: Database, sample_shards: list[Shard]) -> None:
    vectors = np.concatenate([getattr(shard, f"{by}s") for shard in sample_shards[:2]])
    ids = np.concatenate([np.arange(1_000), 10_000_000 + np.arange(620)])
    target = np.random.default_rng(limit).standard_normal(512).astype(np.float32)
    expected = distances(vectors, target)
    result = search(db, target, SearchRequest(by=by, limit=limit, exact=True))
    assert [found.rank for found in result.neighbours] == list(range(1, limit + 1))
    assert np.allclose([found.distance for found in result.neighbours], np.sort(expected)[:limit], atol=1e-5)
    row_of = {int(row_id): row for row, row_id in enumerate(ids)}
    for found in result.neighbours:
        assert found.distance == pytest.approx(expected[row_of[found.id]], abs=1e-5)
        assert found.shard == found.id // 10_000_000


def test_a_row_is_nearest_to_itself_and_comes_with_its_caption_and_url(
    db: Database, sample_shards: list[Shard]
) -> None:
    result = search(db, vector_of(db, 10_000_123, "image"), EXACT)
    found = next(each for each in result.neighbours if each.id == 10_000_123)
    assert found.distance == pytest.approx(0, abs=1e-5)
    assert found.caption.encode() == sample_shards[1].texts_of_column("caption")[123]
    assert found.url.encode() == sample_shards[1].texts_of_column("url")[123]
    assert found.nsfw.encode() == sample_shards[1].texts_of_column("NSFW")[123]


def test_stored_vectors_are_those_of_the_files(db: Database, sample_shards: list[Shard]) -> None:
    assert np.array_equal(vector_of(db, 77, "text"), sample_shards[0].texts[77].astype(np.float32))
    assert np.array_equal(vector_of(db, 10_000_000, "image"), sample_shards[1].images[0].astype(np.float32))


@pytest.mark.parametrize("factor", [1e-300, 1e-45, 1e-30, 1e-22, 1e-19, 1e-3, 1e3, 1e15, 1e20, 1e38, 1e300])
def test_the_length_of_the_query_vector_does_not_matter(
    factor: float, db: Database, sample_shards: list[Shard]
) -> None:
    target = sample_shards[0].images[5].astype(np.float64)
    near, far = (search(db, target * by, EXACT).neighbours for by in (1, factor))
    assert [found.id for found in near] == [found.id for found in far]
    assert [found.distance for found in near] == pytest.approx([found.distance for found in far], abs=1e-6)


@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e20])
def test_float32_vectors_of_any_length_are_unit_vectors(factor: float) -> None:
    target = np.random.default_rng(0).standard_normal(512)
    with np.errstate(over="ignore", under="ignore"):
        given = (target * factor).astype(np.float32)
    found = checked_vector(given, 512).astype(np.float64)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert found @ target / np.linalg.norm(target) == pytest.approx(1, abs=1e-4), "also of elements that are denormal"


def test_vectors_may_be_lists_or_a_row_of_a_matrix(db: Database, sample_shards: list[Shard]) -> None:
    target = sample_shards[0].images[5].astype(np.float32)
    expected = [found.id for found in search(db, target, EXACT).neighbours]
    assert [found.id for found in search(db, target.tolist(), EXACT).neighbours] == expected
    assert [found.id for found in search(db, target.reshape(1, 512), EXACT).neighbours] == expected


def test_captions_that_are_not_utf8_are_shown_with_replacement_marks(db: Database) -> None:
    result = search(db, vector_of(db, 10_000_619, "image"), SearchRequest(exact=True, where="id = 10000619"))
    assert [found.caption for found in result.neighbours] == ["caf\ufffd \ufffd"]


def test_conditions_on_every_column_filter(db: Database, sample_shards: list[Shard]) -> None:
    target = sample_shards[0].images[5].astype(np.float32)
    for where, holds in (
        ("id < 50", lambda found: found.id < 50),
        ("shard = 1", lambda found: found.shard == 1),
        ("NSFW = 'UNSURE'", lambda found: found.nsfw == "UNSURE"),
        (
            "caption ILIKE '%stock photo%' OR id = 3",
            lambda found: "stock photo" in found.caption.lower() or found.id == 3,
        ),
        ("length(url) > 3000", lambda found: len(found.url) > 3_000),
        ("id < 50 -- only the first", lambda found: found.id < 50),
        ("id < 50 /* and\nmore */", lambda found: found.id < 50),
        ("distance < 0.3 AND id != 5", lambda found: found.distance < 0.3 and found.id != 5),
    ):
        found = search(db, target, SearchRequest(exact=True, where=where)).neighbours
        assert found
        assert all(holds(each) for each in found)


def test_a_condition_with_or_does_not_widen_the_shards(db: Database, sample_shards: list[Shard]) -> None:
    request = SearchRequest(exact=True, where="1 OR 1", shards=(1,), limit=1_000)
    found = search(db, sample_shards[0].images[5].astype(np.float32), request).neighbours
    assert len(found) == 620
    assert {each.shard for each in found} == {1}


def test_only_the_shards_asked_for_are_searched(db: Database) -> None:
    target = vector_of(db, 5, "image")
    assert {found.shard for found in search(db, target, SearchRequest(shards=(0, 1), limit=1_000)).neighbours} == {0, 1}
    assert {found.shard for found in search(db, target, SearchRequest(shards=(1,))).neighbours} == {1}
    assert search(db, target, SearchRequest(shards=(3,))).neighbours == []
    assert search(db, target, SearchRequest(shards=())).neighbours == []


@pytest.mark.parametrize("limit", [0, -1, 10_001, 10**9])
def test_limits_beyond_ten_thousand_are_refused(limit: int, db: Database) -> None:
    with pytest.raises(SearchError) as caught:
        search(db, vector_of(db, 5, "image"), SearchRequest(limit=limit))
    assert_one_line(caught.value, f"limit: found {limit:,}, expected 1 to 10,000")


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([0.1] * 511, "shape (511,), expected (512,)"),
        ([], "shape (0,)"),
        (3.0, "shape ()"),
        (np.ones((2, 512)), "shape (2, 512)"),
        (np.ones((512, 1)), "shape (512, 1)"),
        ([float("nan"), *[0.1] * 511], "NaN or infinity"),
        ([1e400, *[0.1] * 511], "NaN or infinity"),
        ([10**400, *[0.1] * 511], "expected 512 numbers"),
        ([1j] * 512, "not real numbers"),
        ([0.0] * 512, "only zeros"),
        (["a"] * 512, "expected 512 numbers"),
        ([[1.0], [1.0, 2.0]], "expected 512 numbers"),
        ([None] * 512, "found "),
        ({"a": 1}, "expected 512 numbers"),
    ],
)
def test_vectors_that_have_no_direction_or_another_dimension_are_refused(vector: Any, said: str) -> None:
    with np.errstate(over="ignore"), pytest.raises(SearchError) as caught:
        checked_vector(vector, 512)
    assert_one_line(caught.value, "query vector", said)


@pytest.mark.parametrize(
    "where",
    [
        "nonsense = 1",
        "id <",
        "id < 5) OR (1",
        "id < 5; DROP TABLE laion",
        "'unclosed",
        "/* unclosed",
        "1) UNION ALL SELECT 1, '', '', 0, 0, '' FROM (SELECT 1",
        "(SELECT count() FROM nowhere) > 0",
        "id IN (INSERT INTO laion (id) VALUES (1))",
    ],
)
def test_conditions_that_are_none_are_refused_and_change_nothing(where: str, db: Database) -> None:
    target = vector_of(db, 5, "image")
    try:
        found = search(db, target, SearchRequest(exact=True, where=where)).neighbours
    except (SearchError, TableError) as error:
        assert_one_line(error)
        assert "Stack trace" not in str(error)
    else:
        raise AssertionError(f"{where} gave {len(found)} rows")
    assert db.one(f"SELECT count() FROM {db.table}") == (1_620,)


@pytest.mark.parametrize(
    "where",
    ["1 SETTINGS readonly = 0", "1 FORMAT Null", "1 INTO OUTFILE '/tmp/x'", "executable('x', 'TSV', 'a String')"],
)
def test_conditions_that_reach_for_more_than_rows_are_refused(where: str, db: Database) -> None:
    with pytest.raises((TableError, SearchError)):
        search(db, vector_of(db, 5, "image"), SearchRequest(exact=True, where=where))


def test_rows_that_are_not_there_have_no_vector(db: Database) -> None:
    for row_id in (1_000, -1, 2**62):
        with pytest.raises(SearchError) as caught:
            vector_of(db, row_id, "image")
        assert_one_line(caught.value, f"id {row_id}: found no row")


def test_only_images_and_texts_are_searched() -> None:
    assert (checked_by("image"), checked_by("text")) == ("image", "text")
    for by in ("caption", "", "Image", "image_embedding"):
        with pytest.raises(SearchError, match="expected image or text"):
            checked_by(by)


def test_vectors_are_read_from_npy_and_json_files(tmp_path: Path) -> None:
    vector = np.linspace(-1, 1, 512, dtype=np.float32)
    np.save(tmp_path / "v.npy", vector.astype(np.float64).reshape(1, 512))
    (tmp_path / "v.json").write_text(json.dumps(vector.tolist()))
    assert np.array_equal(read_vector_file(tmp_path / "v.npy").reshape(-1), vector)
    assert np.array_equal(read_vector_file(tmp_path / "v.json"), vector)


def test_files_that_hold_no_vector_are_refused_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "html.npy").write_text("<html>")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "words.json").write_text('["a", "b"]')
    (tmp_path / "object.json").write_text('{"vector": [1]}')
    (tmp_path / "cut.json").write_text("[1, 2")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "odd.npy").write_bytes(b"\x93NUMPY\x01\x00\x01\x00{")
    for name in [*(path.name for path in tmp_path.iterdir()), "absent.npy", "absent.json"]:
        with pytest.raises(SearchError) as caught:
            read_vector_file(tmp_path / name)
        assert_one_line(caught.value, f"vector file {tmp_path / name}", "a .npy file or a JSON list")


def test_the_query_of_clickhouses_page_runs_unchanged(db: Database, sample_shards: list[Shard]) -> None:
    target = sample_shards[0].images[5].astype(np.float32)
    rows = db.rows(PAGE_SQL, parameters={"target": target.tolist()})
    found = search(db, target, EXACT).neighbours
    assert len(rows) == 10
    images = np.concatenate([shard.images for shard in sample_shards[:2]])
    urls = [url for shard in sample_shards[:2] for url in shard.texts_of_column("url")]
    by_numpy = dict(zip(urls, distances(images, target), strict=True))
    of_page = [by_numpy[str(url).encode()] for url, _ in rows]
    assert np.allclose(of_page, [each.distance for each in found], atol=1e-5)


def test_a_table_that_is_not_there_is_an_error_that_says_what_to_do(db: Database) -> None:
    absent = Database(db.client, db.settings.model_copy(update={"table": "absent"}), db.database, embedded=True)
    with pytest.raises(TableError, match=r"no such table.*laion-assets load 0"):
        search(absent, [0.1] * 512, EXACT)
    with pytest.raises(TableError, match="no such table"):
        vector_of(absent, 5, "image")
