"""Tests of joining metadata by a key: rows end up in one order, and missing and duplicate keys are reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from laion_assets.errors import ShardFileError, TooManyBadRowsError
from laion_assets.shard import join as join_module
from laion_assets.shard import keys as keys_module
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets_tests.conftest import Shard, assert_one_line
from laion_assets_tests.shard.containers import lists
from laion_assets_tests.shard.test_containers import store_of
from laion_assets_tests.shard.test_merge import assert_equals, refused

ROWS = 250
JOIN = {"metadata": "uid", "image": "uid"}
NPZ = {"image_file": "{shard}.npz", "text_file": "{shard}.npz", "image_array": "img", "text_array": "txt"}
UIDS = [f"{row * 0x9E3779B97F4A7C15:032x}"[:32] for row in range(1, ROWS + 1)]


@pytest.fixture
def shard(sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> Shard:
    """A shard of 250 rows, read in three blocks, joined in two buckets."""
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 100)
    monkeypatch.setattr(join_module, "BUCKET_ROWS", 200)
    monkeypatch.setattr(keys_module, "BATCH_ROWS", 90)
    return sample_shards[2]


def shuffled(shard: Shard, uids: Any = None) -> pa.Table:
    """Returns the metadata with its keys, in another order."""
    order = np.random.default_rng(0).permutation(shard.rows)
    keys = pa.array(UIDS if uids is None else uids)
    # `take` does not work on arrays of views.
    taken = pa.array([keys[row].as_py() for row in order.tolist()], keys.type)
    return shard.table.take(pa.array(order)).append_column("uid", taken)


def joined(tmp_path: Path, **fields: Any) -> ShardStore:
    """Returns the store of a dataset whose metadata is joined by a key."""
    return store_of(tmp_path, **{**NPZ, "join": JOIN, **fields})


def archive(store: ShardStore, shard: Shard, keys: Any) -> None:
    """Writes the vectors with their keys."""
    np.savez(store.raw_files(0).image, img=shard.images, txt=shard.texts, uid=keys)


KEYS: dict[str, tuple[Any, Any]] = {
    "text": (np.array(UIDS), UIDS),
    "bytes": (np.array(UIDS, "S32"), UIDS),
    "numbers": (np.arange(ROWS) + 5, pa.array(np.arange(ROWS) + 5)),
    "numbers and text": (np.arange(ROWS, dtype=">u4"), [str(row) for row in range(ROWS)]),
    "a dictionary": (np.array(UIDS), pa.array(UIDS).dictionary_encode()),
    "views": (np.array(UIDS), pa.array(UIDS, pa.string_view())),
}


@pytest.mark.parametrize("name", KEYS)
def test_rows_in_another_order_are_merged_as_if_they_were_in_one(name: str, shard: Shard, tmp_path: Path) -> None:
    there, beside = KEYS[name]
    store = joined(tmp_path)
    archive(store, shard, there)
    pq.write_table(shuffled(shard, beside), store.raw_files(0).metadata, row_group_size=77)
    merged = merge_shard(store, 0, max_bad_fraction=0)
    assert (merged.rows, merged.quarantined, merged.unmatched) == (ROWS, 0, 0)
    assert_equals(pq.read_table(merged.path), shard, 0)
    assert not [path for path in store.raw_folder.iterdir() if path.suffix not in (".npz", ".parquet")]


def test_keys_of_parquet_and_hdf5_files_do_as_well(shard: Shard, tmp_path: Path) -> None:
    own = {
        "image_file": "v_{shard}.parquet",
        "image_array": "img",
        "text_file": "v_{shard}.parquet",
        "text_array": "txt",
    }
    store = store_of(tmp_path / "parquet", **own, join=JOIN)
    make = lists(pa.float32(), pa.list_)
    pq.write_table(
        pa.table({"uid": UIDS, "img": make(shard.images), "txt": make(shard.texts)}), store.raw_files(0).image
    )
    other = store_of(
        tmp_path / "hdf5", **{key: value.replace(".parquet", ".h5") for key, value in own.items()}, join=JOIN
    )
    with h5py.File(other.raw_files(0).image, "w") as file:
        file["img"], file["txt"], file["uid"] = shard.images, shard.texts, UIDS
    for each in (store, other):
        pq.write_table(shuffled(shard), each.raw_files(0).metadata)
        assert_equals(pq.read_table(merge_shard(each, 0, max_bad_fraction=0).path), shard, 0)


def test_vectors_without_metadata_and_doubled_keys_are_refused_row_by_row(shard: Shard, tmp_path: Path) -> None:
    store = joined(tmp_path)
    keys = UIDS.copy()
    keys[7], keys[9] = "nobody", keys[8]
    archive(store, shard, np.array(keys))
    table = shuffled(shard)
    twice = table.filter(pa.compute.equal(table["uid"], UIDS[11]))
    null = table.slice(0, 1).set_column(table.column_names.index("uid"), "uid", pa.array([None], pa.string()))
    pq.write_table(pa.concat_tables([table, twice, null]), store.raw_files(0).metadata)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=0.1)
    # The three rows are the metadata of row 7, the metadata of row 9, and the row without a key.
    assert_one_line(caught.value, "3 of 252 rows whose uid no vector has", "at most 0", "unmatched")
    loose = joined(tmp_path / "loose", join={**JOIN, "unmatched": 0.02})
    archive(loose, shard, np.array(keys))
    pq.write_table(pa.concat_tables([table, twice, null]), loose.raw_files(0).metadata)
    merged = merge_shard(loose, 0, max_bad_fraction=0.1)
    assert (merged.unmatched, merged.quarantined) == (3, 3)
    assert refused(loose) == {
        7: "without metadata of its key",
        9: "with the key of an earlier row",
        11: "with several rows of metadata of its key",
    }
    kept = sorted(set(range(ROWS)) - {7, 9, 11})
    assert_equals(pq.read_table(merged.path), shard, 0, kept)
    with pytest.raises(TooManyBadRowsError):
        merge_shard(loose, 0, max_bad_fraction=0.001)


def test_metadata_of_a_whole_pool_gives_its_rows_to_a_part_of_it(shard: Shard, tmp_path: Path) -> None:
    store = joined(tmp_path, join={**JOIN, "unmatched": 1.0})
    np.savez(store.raw_files(0).image, img=shard.images[50:60], txt=shard.texts[50:60], uid=np.array(UIDS[50:60]))
    pq.write_table(shuffled(shard), store.raw_files(0).metadata)
    merged = merge_shard(store, 0, max_bad_fraction=0)
    assert (merged.rows, merged.unmatched) == (10, 240)
    assert pq.read_table(merged.path)["url"].to_pylist() == shard.table["url"].to_pylist()[50:60]


def test_no_metadata_at_all_refuses_every_row(shard: Shard, tmp_path: Path) -> None:
    store = joined(tmp_path)
    archive(store, shard, np.array(UIDS))
    pq.write_table(shuffled(shard).slice(0, 0), store.raw_files(0).metadata)
    with pytest.raises(TooManyBadRowsError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "without metadata of its key")
    assert not store.merged_path(0).exists()


@pytest.mark.parametrize("kind", ["U1024", "S1024"])
def test_keys_of_a_thousand_characters_are_found(
    kind: str, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "BATCH_BYTES", 100_000)
    uids = [f"{uid}{'x' * (1_024 - len(uid))}" for uid in UIDS]
    store = joined(tmp_path)
    archive(store, shard, np.array(uids, kind))
    pq.write_table(shuffled(shard, uids), store.raw_files(0).metadata)
    assert merge_shard(store, 0, max_bad_fraction=0).rows == 250


BAD: dict[str, tuple[dict[str, Any], Callable[[Shard], pa.Table], str]] = {
    "no such array": ({"id": np.array(UIDS)}, shuffled, "arrays: img, txt, id"),
    "keys of floats": ({"uid": np.arange(250.0)}, shuffled, "shape (250,) of <f8"),
    "two dimensions": ({"uid": np.zeros((250, 2), int)}, shuffled, "shape (250, 2)"),
    "long keys": (
        {"uid": np.full(250, "x", "U1025")},
        shuffled,
        "keys of 1,025 characters, <U1025, expected keys of at",
    ),
    "long keys of bytes": ({"uid": np.full(250, b"x", "S1025")}, shuffled, "keys of 1,025 bytes, |S1025"),
    "fewer keys": ({"uid": np.array(UIDS[:9])}, shuffled, "9 keys in uid, expected 250"),
    "no such column": ({"uid": np.array(UIDS)}, lambda s: s.table, "no column uid among"),
    "a column of floats": (
        {"uid": np.array(UIDS)},
        lambda s: shuffled(s, np.arange(250.0)),
        "values of type double",
    ),
    "a column of lists": (
        {"uid": np.array(UIDS)},
        lambda s: shuffled(s, [[1]] * 250),
        "values of type list",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_without_keys_are_refused_in_one_line(name: str, shard: Shard, tmp_path: Path) -> None:
    arrays, table, said = BAD[name]
    store = joined(tmp_path)
    np.savez(store.raw_files(0).image, img=shard.images, txt=shard.texts, **arrays)
    pq.write_table(table(shard), store.raw_files(0).metadata)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 0", said)
    assert not store.merged_path(0).exists()


@pytest.mark.parametrize(
    "fields",
    [{"image_file": "img_{shard}.npy", "image_array": None, "has_text": False}, {"has_metadata": False}],
)
def test_a_join_needs_keys_on_both_sides(fields: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="join needs metadata, and vectors in a file that has their keys"):
        joined(tmp_path, **fields)
