"""Tests of vectors in .npz files and Parquet columns: merged like .npy files, bad files refused in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError, TooManyBadRowsError
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets_tests.conftest import Shard, assert_one_line, sample_dataset
from laion_assets_tests.shard.containers import PARQUET, lists, with_lists
from laion_assets_tests.shard.test_merge import assert_equals, refused

ONE_FILE = {"image_file": "rows_{shard}.parquet", "metadata_file": "rows_{shard}.parquet", "image_array": "img"}
ONE_FILE |= {"text_file": "rows_{shard}.parquet", "text_array": "txt"}
ARCHIVE = {"image_file": "{shard}.npz", "text_file": "{shard}.npz", "image_array": "img", "text_array": "txt"}


def store_of(tmp_path: Path, **fields: object) -> ShardStore:
    """Returns a store with a folder for raw files."""
    dataset: Dataset = sample_dataset(**fields)
    store = ShardStore(tmp_path / "store", dataset)
    store.raw_folder.mkdir(parents=True)
    return store


@pytest.fixture
def shard(sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> Shard:
    """A shard of 250 rows, read in three blocks."""
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 100)
    return sample_shards[2]


@pytest.mark.parametrize("name", PARQUET)
def test_lists_in_the_metadatas_file_are_merged_as_npy_files_are(name: str, shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **ONE_FILE)
    PARQUET[name](shard, store.raw_files(0).metadata)
    assert [*store.raw_files(0).paths()] == ["metadata"]
    merged = merge_shard(store, 0, max_bad_fraction=0)
    assert (merged.rows, merged.quarantined) == (250, 0)
    assert_equals(pq.read_table(merged.path), shard, 0)


def test_lists_in_a_file_of_their_own_are_merged(shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, image_file="vectors_{shard}.parquet", image_array="emb")
    files = store.raw_files(1)
    pq.write_table(pa.table({"emb": lists(pa.float32(), pa.list_)(shard.images)}), files.image, row_group_size=60)
    assert files.text is not None
    np.save(files.text, shard.texts)
    pq.write_table(shard.table, files.metadata, row_group_size=77)
    assert_equals(pq.read_table(merge_shard(store, 1, max_bad_fraction=0).path), shard, 1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_arrays_of_an_npz_file_are_merged(save: Callable[..., None], dtype: str, shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **ARCHIVE)
    files = store.raw_files(0)
    save(files.image, img=shard.images.astype(dtype), txt=shard.texts.astype(dtype), other=np.arange(3))
    pq.write_table(shard.table, files.metadata)
    assert set(files.paths()) == {"text", "metadata"}
    assert_equals(pq.read_table(merge_shard(store, 0, max_bad_fraction=0).path), shard, 0)


def test_the_only_array_of_an_npz_file_needs_no_name(shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, image_file="{shard}.npz", has_text=False)
    files = store.raw_files(0)
    np.savez_compressed(files.image, shard.images)
    pq.write_table(shard.table, files.metadata)
    assert merge_shard(store, 0, max_bad_fraction=0).rows == 250


def test_rows_that_are_no_vectors_are_refused_one_by_one(shard: Shard, tmp_path: Path) -> None:
    rows = [row.astype(np.float32).tolist() for row in shard.images]
    texts = [row.astype(np.float32).tolist() for row in shard.texts]
    rows[3], rows[99], rows[100], rows[101] = None, rows[99][:-1], [], [*rows[101], 0.0]
    rows[150][7] = None
    rows[200][0] = float("nan")
    rows[249] = [0.0] * 512
    texts[3] = None
    store = store_of(tmp_path, **ONE_FILE)
    table = shard.table.append_column("img", pa.array(rows, pa.list_(pa.float32())))
    table = table.append_column("txt", pa.array(texts, pa.list_(pa.float32())))
    pq.write_table(table, store.raw_files(0).metadata, row_group_size=64)
    merged = merge_shard(store, 0, max_bad_fraction=0.1)
    assert refused(store) == {
        3: "image_embedding null and text_embedding null",
        99: "image_embedding dimension 511",
        100: "image_embedding dimension 0",
        101: "image_embedding dimension 513",
        150: "image_embedding with nulls in it",
        200: "image_embedding not finite",
        249: "image_embedding zero",
    }
    assert merged.reasons["image_embedding dimension"] == 3
    kept = sorted(set(range(250)) - set(refused(store)))
    assert_equals(pq.read_table(merged.path), shard, 0, kept)


def test_lists_of_another_dimension_say_what_to_set(shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **ONE_FILE, dimension=256)
    PARQUET["float32"](shard, store.raw_files(0).metadata)
    with pytest.raises(TooManyBadRowsError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "image_embedding dimension 512", "say so in the dataset's file")


def column(kind: pa.DataType, value: object) -> Callable[[Shard], pa.Table]:
    """Returns a function that makes the shard's table with the same value in each row of the image column."""
    return lambda shard: with_lists(shard, lists(pa.float32(), pa.list_)).set_column(
        shard.table.num_columns, "img", pa.array([value] * shard.rows, kind)
    )


BAD_COLUMNS: dict[str, tuple[Callable[[Shard], pa.Table], str]] = {
    "no column": (lambda shard: shard.table.append_column("txt", pa.array([[1.0]] * 250)), "no column img among: "),
    "numbers": (column(pa.float32(), 1.0), "column img of type float"),
    "text": (column(pa.string(), "[1, 2]"), "column img of type string"),
    "lists of text": (column(pa.list_(pa.string()), ["1"]), "of type list<"),
    "lists of integers": (column(pa.list_(pa.int32()), [1] * 512), "of type list<"),
    "lists of lists": (column(pa.list_(pa.list_(pa.float32())), [[1.0]]), "of type list<"),
    "structs": (column(pa.struct([("a", pa.float32())]), {"a": 1.0}), "of type struct<"),
    "bytes": (column(pa.binary(), b"\x00" * 1024), "of type binary"),
    "nulls": (column(pa.null(), None), "of type null"),
    "another fixed size": (column(pa.list_(pa.float32(), 3), [1.0, 2.0, 3.0]), "column img of 3 numbers, expected 512"),
    "two of the name": (
        lambda shard: pa.Table.from_arrays(
            [*with_lists(shard, lists(pa.float32(), pa.list_)).columns, lists(pa.float32(), pa.list_)(shard.images)],
            [*shard.table.column_names, "img", "txt", "img"],
        ),
        "2 columns named img",
    ),
    "far more numbers": (column(pa.list_(pa.float32()), [1.0] * 60_000), "bytes in column img for 250 rows"),
}


@pytest.mark.parametrize("name", BAD_COLUMNS)
def test_a_column_that_has_no_vectors_is_refused_in_one_line(name: str, shard: Shard, tmp_path: Path) -> None:
    make, said = BAD_COLUMNS[name]
    store = store_of(tmp_path, **ONE_FILE)
    pq.write_table(make(shard), store.raw_files(0).metadata, use_dictionary=False)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 0, rows_0.parquet", said)
    assert not store.merged_path(0).exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_parquet_file_that_was_cut_is_refused(share: float, shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **ONE_FILE)
    path = store.raw_files(0).metadata
    PARQUET["float32"](shard, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 0, rows_0.parquet", "fetch the file again")


def spoilt(at: float, length: int = 3) -> Callable[[bytes], bytes]:
    """Returns a function that overwrites some bytes."""

    def spoil(content: bytes) -> bytes:
        first = int(len(content) * at)
        return content[:first] + b"\xff" * length + content[first + length :]

    return spoil


BAD_ARCHIVES: dict[str, tuple[Callable[[Shard, Path], object], str]] = {
    "no such array": (lambda s, p: np.savez(p, a=s.images, txt=s.texts), "arrays: a, txt"),
    "no arrays": (lambda _, p: zipfile.ZipFile(p, "w").close(), "arrays: none"),
    "another dimension": (lambda s, p: np.savez(p, img=s.images[:, :9], txt=s.texts), "shape (250, 9)"),
    "one dimension": (lambda s, p: np.savez(p, img=s.images[0], txt=s.texts), "1 dimensions"),
    "integers": (lambda s, p: np.savez(p, img=s.images.astype(int), txt=s.texts), "dtype <i8"),
    "objects": (lambda s, p: np.savez(p, img=s.images.astype(object), txt=s.texts), "dtype |O"),
    "Fortran order": (lambda s, p: np.savez(p, img=np.asfortranarray(s.images), txt=s.texts), "Fortran order"),
    "fewer rows": (lambda s, p: np.savez(p, img=s.images[:9], txt=s.texts), "9 rows in img of 0.npz"),
    "an npy file": (lambda _, p: p.write_bytes(b"\x93NUMPY" * 90), "expected a sound npz file"),
    "nothing": (lambda _, p: p.write_bytes(b""), "expected a sound npz file"),
    "cut": (lambda s, p: _changed(s, p, lambda content: content[: len(content) // 2]), "expected a sound npz file"),
    "a spoilt array": (lambda s, p: _changed(s, p, spoilt(0.2)), "expected a sound npz file"),
    "a spoilt packed array": (lambda s, p: _changed(s, p, spoilt(0.7), np.savez_compressed), "a sound npz file"),
    "a spoilt directory": (lambda s, p: _changed(s, p, spoilt(0.9999, 40)), "expected a sound npz file"),
    "an array that ends early": (lambda s, p: _written(p, _npy(s)[:5_000]), "5,000 bytes"),
    "an array that goes on": (lambda s, p: _written(p, _npy(s) + b"\x00" * 99), "256,227 bytes"),
    "no header": (lambda _, p: _written(p, b"\x00" * 900), "a file that starts"),
}


def _npy(shard: Shard) -> bytes:
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (250, 512), }"
    header = header.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + shard.images.tobytes()


def _written(path: Path, array: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("img.npy", array)
        archive.writestr("txt.npy", array)


def _changed(shard: Shard, path: Path, change: Callable[[bytes], bytes], save: Callable[..., None] = np.savez) -> None:
    save(path, img=shard.images, txt=shard.texts)
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_an_archive_without_the_vectors_is_refused_in_one_line(name: str, shard: Shard, tmp_path: Path) -> None:
    make, said = BAD_ARCHIVES[name]
    store = store_of(tmp_path, **ARCHIVE)
    files = store.raw_files(0)
    make(shard, files.image)
    pq.write_table(shard.table, files.metadata)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 0", said)
    assert not store.merged_path(0).exists()
