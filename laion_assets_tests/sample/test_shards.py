"""Tests of the sample's files: LAION-400M's layout to the byte, awkward rows, duplicates, words that find rows."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import load_dataset
from laion_assets.sample import shards as sample
from laion_assets.sample.shards import sample_row_counts, write_sample, write_sample_shard
from laion_assets.sample.world import Floats, sample_world

REAL = Path(__file__).parents[2].parent / "shared" / "real"
ROWS = 20_000
SHARD = 3

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"genuine files are not at {REAL}")


def strings(column: pa.ChunkedArray[Any]) -> list[str]:
    """Returns a column of texts, with "" for null."""
    return [str(text or "") for text in column.to_pylist()]


class Shard(NamedTuple):
    paths: tuple[Path, Path, Path]
    images: Floats
    texts: Floats
    metadata: pa.Table
    captions: list[str]


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """One shard of 20,000 rows; with this seed, it has a similarity of 6016."""
    paths = write_sample_shard(tmp_path_factory.mktemp("sample"), SHARD, ROWS, seed=0)
    images, texts = (np.load(path).astype(np.float32) for path in paths[:2])
    metadata = pq.read_table(paths[2])
    return Shard(paths, images, texts, metadata, strings(metadata["caption"]))


def written(folder: Path, number: int, rows: int, seed: int) -> list[bytes]:
    return [path.read_bytes() for path in write_sample_shard(folder, number, rows, seed=seed)]


def test_row_counts_are_unequal_as_laions() -> None:
    assert sample_row_counts(1, 20_000) == [20_000]
    assert sample_row_counts(2, 20_000) == [20_000, 13_000]
    assert sample_row_counts(3, 100) == [100, 35, 65]
    assert sample_row_counts(4, 20_000) == [20_000, 20_000, 7_000, 13_000]
    assert sample_row_counts(5, 1_000) == [1_000, 1_000, 350, 1_000, 650]
    assert sample_row_counts(6, 1_000) == [1_000, 1_000, 1_000, 350, 1_053, 650]
    assert sample_row_counts(10, 1) == [1, 1, 1, 1, 1, 1, 1, 1, 54, 1]


def test_a_sample_has_a_shard_and_a_row(tmp_path: Path) -> None:
    for shards, rows in ((0, 5), (5, 0), (-1, 5)):
        with pytest.raises(ValueError, match="at least one shard and one row"):
            sample_row_counts(shards, rows)
    for number, rows in ((-1, 5), (0, 0)):
        with pytest.raises(ValueError, match="a number from 0 and at least one row"):
            write_sample_shard(tmp_path, number, rows)


def test_a_sample_is_three_files_a_shard_under_the_names_of_the_dataset(tmp_path: Path) -> None:
    done: list[int] = []
    paths = write_sample(tmp_path, 4, 40, first_shard=6, progress=done.append)
    dataset = load_dataset("laion400m")
    folders = {"image": "img_emb", "text": "text_emb", "metadata": "metadata"}
    names = [tmp_path / folders[kind] / dataset.file_name(kind, n) for n in range(6, 10) for kind in dataset.file_kinds]
    assert paths == names
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for first, count in zip(range(0, 12, 3), (40, 40, 14, 26), strict=True):
        assert [len(np.load(path)) for path in paths[first : first + 2]] == [count, count]
        assert pq.read_metadata(paths[first + 2]).num_rows == count
    assert sum(done) == 120


@pytest.mark.parametrize("rows", [1, 4_096, 4_097])
def test_any_row_count_is_written(tmp_path: Path, rows: int) -> None:
    image, text, metadata = write_sample_shard(tmp_path, 0, rows)
    assert image.stat().st_size == text.stat().st_size == 128 + rows * 1_024
    assert pq.read_metadata(metadata).num_rows == rows


def test_npy_files_are_float16_version_1_with_a_header_of_128_bytes(shard: Shard) -> None:
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (20000, 512), }"
    for path in shard.paths[:2]:
        assert path.read_bytes()[:128] == header.ljust(127) + b"\n"
        assert path.stat().st_size == 128 + ROWS * 512 * 2


@needs_real
def test_the_header_is_that_of_a_genuine_file_byte_for_byte(tmp_path: Path) -> None:
    genuine = (REAL / "clip_retrieval_triple" / "img_emb_0.npy").read_bytes()
    assert [file[:128] for file in written(tmp_path, 0, 9, 0)[:2]] == [genuine[:128]] * 2


def test_metadata_has_laions_columns_in_order_with_their_types(shard: Shard) -> None:
    names = [
        "image_path",
        "caption",
        "NSFW",
        "similarity",
        "LICENSE",
        "url",
        "key",
        "shard_id",
        "status",
        "error_message",
    ]
    names += ["width", "height", "exif", "original_width", "original_height"]
    assert shard.metadata.column_names == names
    types = dict.fromkeys(names, "string") | {"similarity": "double", "error_message": "null"}
    types |= dict.fromkeys(("shard_id", "width", "height", "original_width", "original_height"), "int64")
    assert {field.name: str(field.type) for field in shard.metadata.schema} == types
    assert all(field.nullable for field in shard.metadata.schema)
    assert shard.metadata["error_message"].null_count == ROWS


def test_metadata_is_one_snappy_row_group_as_pandas_writes_it(shard: Shard) -> None:
    facts = pq.read_metadata(shard.paths[2])
    assert (facts.num_rows, facts.num_row_groups) == (ROWS, 1)
    assert {facts.row_group(0).column(index).compression for index in range(15)} == {"SNAPPY"}
    index = {"kind": "range", "name": None, "start": 0, "stop": ROWS, "step": 1}
    assert json.loads(shard.metadata.schema.metadata[b"pandas"])["index_columns"] == [index]


@needs_real
def test_pandas_facts_are_those_of_a_genuine_file(shard: Shard) -> None:
    paths = (shard.paths[2], REAL / "clip_retrieval_triple" / "metadata_0.parquet")
    ours, genuine = (json.loads(pq.read_schema(path).metadata[b"pandas"]) for path in paths)
    assert ours.keys() == genuine.keys()
    assert ours["column_indexes"] == genuine["column_indexes"]
    assert ours["columns"][:2] == genuine["columns"], "image_path and caption"


def test_keys_repeat_between_tars_and_never_within_one(shard: Shard) -> None:
    keys, tars = shard.metadata["key"].to_pylist(), shard.metadata["shard_id"].to_pylist()
    assert len(set(tars)) == 3
    assert len(set(keys)) < len(set(zip(tars, keys, strict=True))) == ROWS
    assert max(Counter(str(tar) for tar in tars).values()) < 10_000, "some images of every tar could not be fetched"


def test_vectors_were_normalised_before_they_became_float16(shard: Shard) -> None:
    for vectors in (shard.images, shard.texts):
        lengths = np.linalg.norm(vectors, axis=1)
        assert 0.9997 <= lengths.min() < lengths.max() <= 1.0003


def test_similarity_is_near_the_dot_product_but_not_equal(shard: Shard) -> None:
    similarity = shard.metadata["similarity"].to_numpy()
    dot = np.einsum("nd,nd->n", shard.images, shard.texts)
    usual = similarity < 1  # not 6016, not null
    difference = similarity[usual] - dot[usual]
    assert 0.008 < difference.std() < 0.012
    assert np.mean(similarity[usual] >= 0.3) > 0.7
    assert similarity[similarity >= 1].tolist() == [6016.0]


def test_nulls_and_garbage_are_rare_but_there(shard: Shard) -> None:
    for name, least, most in (("caption", 1, 15), ("NSFW", 15, 80), ("similarity", 1, 15), ("url", 0, 0)):
        assert least <= shard.metadata[name].null_count <= most, name
    labels = Counter(shard.metadata["NSFW"].to_pylist())
    assert labels["UNLIKELY"] > 0.9 * ROWS > labels["UNSURE"] > labels["NSFW"] > labels["0.3178"] > 0


def test_captions_are_as_awkward_as_laions(shard: Shard) -> None:
    captions = shard.captions
    assert 2_000 <= max(map(len, captions)) <= 2_100
    pieces = [
        '"""',
        "\n",
        "\r\n",
        "\t",
        "\\N",
        "&amp;",
        "&#39;",
        "DROP TABLE",
        "/* ",
        "東京",
        "\ufeff",
        "%s",
        "{'a': [",
    ]
    for piece in pieces:
        assert any(piece in caption for caption in captions), piece
    assert any(max(caption, default="") > "\U0001f000" for caption in captions), "emoji"
    assert any(caption[:1] == " " and caption[-1:] == " " for caption in captions), "blanks at the edges"
    assert any(caption.endswith("\\") for caption in captions)


def test_a_small_shard_has_almost_every_awkward_caption(tmp_path: Path) -> None:
    captions = strings(pq.read_table(write_sample_shard(tmp_path, 0, 700)[2])["caption"])
    wrappings = [text.split("{}") for text in sample.AWKWARD]
    present = [any(text.startswith(start) and text.endswith(end) for text in captions) for start, end in wrappings]
    # An awkward row may have been replaced by a copy of another row, as 2.5 % of the rows are.
    assert sum(present) >= len(wrappings) - 2


@needs_real
def test_signs_that_break_csv_are_as_frequent_as_in_genuine_captions(shard: Shard) -> None:
    genuine = strings(pq.read_table(REAL / "captions_10000.parquet")["TEXT"])
    for pattern in ('"', "'", r"\|", r"[^\x00-\x7f]"):
        found = [[bool(re.search(pattern, caption)) for caption in captions] for captions in (shard.captions, genuine)]
        ours, theirs = map(np.mean, found)
        assert 0.6 * theirs <= ours <= 1.6 * theirs, pattern


def test_captions_vary_and_have_no_vocabulary_word_by_accident(shard: Shard) -> None:
    assert len(set(shard.captions)) > 0.75 * ROWS
    filler = " ".join(sample.PREFIXES + sample.SUFFIXES + sample.FILLERS + sample.AWKWARD).lower()
    assert set(re.findall(r"[a-z]+", filler)).isdisjoint(sample_world().words)


def test_urls_are_unique_also_between_shards_and_some_are_long_or_have_blanks(shard: Shard, tmp_path: Path) -> None:
    urls = strings(shard.metadata["url"])
    other = strings(pq.read_table(write_sample_shard(tmp_path, SHARD + 1, 3_000, seed=0)[2])["url"])
    numbers = [match[1] for match in map(re.compile(r"/(\d+)-[a-z]").search, urls + other) if match]
    assert len(set(urls)) == ROWS and len(set(numbers)) == ROWS + 3_000
    assert 2_900 <= max(map(len, urls)) <= 3_500
    for piece in (" ", "&amp;", "%20", "?"):
        assert any(piece in url for url in urls)


def test_popular_images_are_exact_duplicates_with_urls_of_their_own(shard: Shard) -> None:
    rows_of = Counter(row.tobytes() for row in shard.images)
    repeated = [count for count in rows_of.values() if count > 1]
    assert 0.005 * ROWS <= sum(repeated) <= 0.015 * ROWS
    assert max(repeated) >= 20
    most = rows_of.most_common(1)[0][0]
    same = [row for row in range(ROWS) if shard.images[row].tobytes() == most]
    assert len({shard.texts[row].tobytes() for row in same}) == 1, "one caption, one text vector"
    assert len({shard.metadata["url"][row].as_py() for row in same}) == len(same)


def test_near_duplicates_are_there_and_do_not_equal_their_original(shard: Shard) -> None:
    block = shard.images[: sample.BLOCK_ROWS]
    cosines = np.tril(block @ block.T, -1).max(axis=1)
    rows_of = Counter(row.tobytes() for row in block)
    exact = np.array([rows_of[row.tobytes()] > 1 for row in block])
    near = (cosines > 0.975) & ~exact
    assert 0.008 * len(block) <= near.sum() <= 0.022 * len(block)


@pytest.mark.parametrize("view", ["images", "texts"])
def test_every_word_finds_captions_that_have_it(shard: Shard, view: str) -> None:
    vectors: Floats = getattr(shard, view)
    world = sample_world()
    tokens = [set(re.findall(r"[a-z]+", caption.lower())) for caption in shard.captions]
    scores = vectors @ np.stack([world.embed_text([word]) for word in world.words]).T
    nearest = np.argpartition(-scores, 10, axis=0)[:10].T
    for word, rows in zip(world.words, nearest, strict=True):
        assert np.mean([word in tokens[row] for row in rows]) >= 0.9, word


def test_a_seed_gives_the_same_bytes_on_any_thread_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        results.append(written(tmp_path, 0, 10_000, 5))
    assert results[0] == results[1] == results[2]


def test_another_seed_or_shard_gives_other_rows(tmp_path: Path) -> None:
    first = written(tmp_path, 0, 50, 5)
    for other in (written(tmp_path, 0, 50, 6), written(tmp_path, 1, 50, 5)):
        assert all(left != right for left, right in zip(first, other, strict=True))


def test_a_failure_leaves_no_file_behind(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_sample_shard(tmp_path, 0, 10_000, progress=fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_memory_for_vectors_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(sample, "BLOCK_ROWS", 256)
    peaks = []
    for rows in (1_500, 6_000):
        tracemalloc.start()
        write_sample_shard(tmp_path, 0, rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]
