"""Tests of merging: the file equals its three sources row by row, bad rows are quarantined, no partial file stays."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from laion_assets.columns import ColumnType
from laion_assets.dataset import load_dataset
from laion_assets.errors import ShardFileError, StoreError, TooManyBadRowsError
from laion_assets.settings import Settings
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import FACTS_KEY, FORMAT, MergedShard, read_merged
from laion_assets.shard.places import origin_path
from laion_assets.shard.store import ShardStore
from laion_assets_tests.conftest import VECTORS, Shard, assert_one_line, sample_dataset

Merge = Callable[[Shard, int], MergedShard]
STRIDE = 10_000_000
DIMENSION = 512


def vectors_of(table: pa.Table, column: str) -> npt.NDArray[np.float32]:
    """Returns a vector column as an (n, d) array."""
    found: npt.NDArray[np.float32] = pc.list_flatten(table[column]).to_numpy().reshape(-1, DIMENSION)
    return found


def texts_of(table: pa.Table, column: str) -> list[bytes]:
    """Returns a text column as bytes."""
    found: list[bytes] = table[column].cast(pa.binary()).to_pylist()
    return found


def assert_equals(table: pa.Table, shard: Shard, number: int, rows: list[int] | None = None) -> None:
    """Checks that a merged file has these rows of the shard; by default, all rows."""
    kept = list(range(shard.rows)) if rows is None else rows
    assert table["id"].to_pylist() == [number * STRIDE + row for row in kept]
    for name in ("url", "caption", "NSFW"):
        expected = shard.texts_of_column(name)
        assert texts_of(table, name) == [expected[row] for row in kept]
    similarity = np.array([math.nan if s is None else s for s in shard.table["similarity"].to_pylist()], np.float32)
    assert np.array_equal(table["similarity"].to_numpy(), similarity[kept], equal_nan=True)
    for name, vectors in zip(VECTORS, (shard.images, shard.texts), strict=True):
        assert np.array_equal(vectors_of(table, name), vectors[kept].astype(np.float32))


def refused(store: ShardStore, shard: int = 0) -> dict[int, str]:
    """Returns the reason for each quarantined row of a shard, by row number."""
    table = pq.read_table(store.quarantine_path(shard))
    rows = [row_id - shard * STRIDE for row_id in table["id"].to_pylist()]
    return dict(zip(rows, table["reason"].to_pylist(), strict=True))


def leftovers(store: ShardStore) -> list[str]:
    """Returns the files beside the merged ones that should not be there."""
    folder = store.merged_path(0).parent
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if name.endswith(".tmp") or (name.startswith(".") and not name.endswith(".lock"))]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_merged_file_equals_its_sources_row_by_row(
    number: int, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[number]
    merged = merged_from(shard, number)
    assert (merged.rows, merged.quarantined) == (shard.rows, 0)
    assert_equals(pq.read_table(merged.path), shard, number)


def test_the_sample_has_captions_that_break_csv(sample_shards: list[Shard]) -> None:
    text = b"\n".join(sample_shards[0].texts_of_column("caption"))
    for sign in (b'"', b"'", b"\r\n", b"\t", b"&amp;", b"\\N", "\U0001f98a".encode(), "\u00a0".encode(), b"DROP TABLE"):
        assert sign in text
    assert max(map(len, sample_shards[0].texts_of_column("caption"))) >= 2_000


@pytest.mark.parametrize("block_rows", [1, 7, 64, 619, 620, 621])
def test_blocks_of_any_size_give_the_same_file(
    block_rows: int, merged_from: Merge, sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", block_rows)
    shard = sample_shards[1].head(30) if block_rows == 1 else sample_shards[1]
    merged = merged_from(shard, 0)
    assert pq.ParquetFile(merged.path).metadata.num_row_groups == math.ceil(shard.rows / block_rows)
    assert_equals(pq.read_table(merged.path), shard, 0)


def test_metadata_of_several_row_groups_stays_with_its_vectors(
    store: ShardStore, sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 100)
    files = sample_shards[1].place(store)
    pq.write_table(sample_shards[1].table, files.metadata, row_group_size=37)
    assert_equals(pq.read_table(merge_shard(store, 0, max_bad_fraction=0).path), sample_shards[1], 0)


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f2", ">f4"])
def test_vectors_of_other_floats_and_orders_are_merged_alike(
    dtype: str, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    other = replace(shard, images=np.asfortranarray(shard.images.astype(dtype)), texts=shard.texts.astype(dtype))
    assert_equals(pq.read_table(merged_from(other, 0).path), shard, 0)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_shards_of_hardly_any_rows_are_merged(rows: int, merged_from: Merge, sample_shards: list[Shard]) -> None:
    shard = sample_shards[0].head(rows)
    merged = merged_from(shard, 2)
    assert merged.rows == rows
    assert_equals(pq.read_table(merged.path), shard, 2)


def test_unequal_counts_fail_and_name_all_three(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[2]
    replace(shard, images=shard.images[:200], table=shard.table.slice(0, 240)).place(store, 1)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 1, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 1: ", "200 rows in img_emb_1.npy", "250 rows in text_emb_1.npy")
    assert_one_line(caught.value, "240 rows in metadata_1.parquet", "the same number in each")
    assert not store.merged_path(1).exists()


def test_each_pair_of_unequal_counts_fails(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[2]
    for spoilt in (
        replace(shard, images=shard.images[:-1]),
        replace(shard, texts=shard.texts[:-1]),
        replace(shard, table=shard.table.slice(1)),
    ):
        spoilt.place(store)
        with pytest.raises(ShardFileError, match="249 rows in"):
            merge_shard(store, 0, max_bad_fraction=1)


def test_rows_that_may_not_reach_the_table_go_to_the_quarantine_with_the_reason(
    store: ShardStore, sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 256)
    shard = sample_shards[0]
    spoilt = shard.with_vector(3, np.nan).with_vector(255, 0, kind="texts")
    one_value = np.array(shard.images[256])
    one_value[17] = np.inf
    spoilt = spoilt.with_vector(256, one_value).with_vector(700, shard.images[700] * 2)
    spoilt = spoilt.with_vector(999, -np.inf).with_vector(999, 0, kind="texts")
    spoilt.place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0.005)
    assert refused(store) == {
        3: "image_embedding not finite",
        255: "text_embedding zero",
        256: "image_embedding not finite",
        700: "image_embedding length 2",
        999: "image_embedding not finite and text_embedding zero",
    }
    assert (merged.rows, merged.quarantined) == (995, 5)
    assert merged.reasons == {
        "image_embedding not finite": 2,
        "text_embedding zero": 1,
        "image_embedding length": 1,
        "image_embedding not finite and text_embedding zero": 1,
    }
    kept = sorted(set(range(1_000)) - set(refused(store)))
    assert_equals(pq.read_table(merged.path), spoilt, 0, kept)


def test_reasons_are_counted_without_their_figures(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    for row, factor in ((1, 2.0), (2, 0.5), (3, 1.5)):
        shard = shard.with_vector(row, shard.images[row] * factor)
    shard.with_vector(4, 0).place(store)
    merged = merge_shard(store, 0, max_bad_fraction=0.1)
    assert merged.reasons == {"image_embedding length": 3, "image_embedding zero": 1}


def test_quarantined_rows_keep_everything_that_they_have(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[1].with_vector(42, np.nan)
    shard.place(store)
    merge_shard(store, 0, max_bad_fraction=0.01)
    table = pq.read_table(store.quarantine_path(0))
    assert texts_of(table, "caption") == [shard.texts_of_column("caption")[42]]
    assert np.array_equal(vectors_of(table, "text_embedding")[0], shard.texts[42].astype(np.float32))
    assert np.isnan(vectors_of(table, "image_embedding")).all()


@pytest.mark.parametrize("length", [0.98, 1.02])
def test_lengths_within_two_hundredths_of_one_are_sound(
    length: float, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    assert merged_from(shard.with_vector(5, shard.images[5] * np.float16(length)), 0).quarantined == 0


def test_a_dataset_that_is_not_normalised_has_vectors_of_any_length_but_none(
    settings: Settings, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    shard = shard.with_vector(1, shard.images[1] * 7).with_vector(2, 0).with_vector(3, np.nan)
    store = ShardStore(settings.data_dir, sample_dataset(normalised=False))
    shard.place(store)
    assert merge_shard(store, 0, max_bad_fraction=0.1).rows == 248
    assert refused(store) == {2: "image_embedding zero", 3: "image_embedding not finite"}


def test_a_sound_merge_takes_an_old_quarantine_away(store: ShardStore, sample_shards: list[Shard]) -> None:
    sample_shards[1].with_vector(0, np.nan).place(store)
    merge_shard(store, 0, max_bad_fraction=0.1)
    assert store.quarantine_path(0).exists()
    sample_shards[1].place(store)
    assert merge_shard(store, 0, max_bad_fraction=0.1).quarantined == 0
    assert not store.quarantine_path(0).exists()


def test_more_bad_rows_than_allowed_fail_and_leave_the_earlier_file_as_it_was(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    before = merged_from(sample_shards[0], 0).path.read_bytes()
    spoilt = sample_shards[0].with_vector(7, np.nan).with_vector(8, 0)
    spoilt.place(store)
    with pytest.raises(TooManyBadRowsError) as caught:
        merge_shard(store, 0, max_bad_fraction=0.001)
    assert_one_line(caught.value, "shard 0: found 2 bad rows or more", "row 7: image_embedding not finite", "row 8: ")
    assert_one_line(caught.value, "at most 1 of 1,000", str(store.quarantine_path(0)), "LAION_MAX_BAD_FRACTION")
    assert store.merged_path(0).read_bytes() == before
    assert set(refused(store)) == {7, 8}
    assert leftovers(store) == []


def test_exactly_the_allowed_number_of_bad_rows_is_allowed(store: ShardStore, sample_shards: list[Shard]) -> None:
    sample_shards[0].with_vector(7, np.nan).place(store)
    assert merge_shard(store, 0, max_bad_fraction=0.001).quarantined == 1
    with pytest.raises(TooManyBadRowsError):
        merge_shard(store, 0, max_bad_fraction=0.0009)


def test_a_shard_of_which_no_row_is_left_is_never_merged(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[2]
    replace(shard, images=np.zeros_like(shard.images)).place(store)
    with pytest.raises(TooManyBadRowsError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "250 bad rows", "at most 249 of 250", "correct the source")
    assert "LAION_MAX_BAD_FRACTION" not in str(caught.value)
    assert not store.merged_path(0).exists()


@pytest.mark.parametrize("fraction", [0, 0.001, 1])
def test_vectors_that_were_never_normalised_get_the_advice_to_say_so(
    fraction: float, store: ShardStore, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    replace(shard, images=shard.images * np.float16(9), texts=shard.texts * np.float16(9)).place(store)
    with pytest.raises(TooManyBadRowsError) as caught:
        merge_shard(store, 0, max_bad_fraction=fraction)
    assert_one_line(caught.value, "row 0: image_embedding length 9", "normalised = false in the dataset's file")
    assert "LAION_MAX_BAD_FRACTION" not in str(caught.value)


def test_merging_again_gives_the_same_rows(store: ShardStore, merged_from: Merge, sample_shards: list[Shard]) -> None:
    first = pq.read_table(merged_from(sample_shards[1], 0).path)
    assert pq.read_table(merge_shard(store, 0, max_bad_fraction=0).path).equals(first)


def test_nulls_are_counted_in_the_files_facts(merged_from: Merge, sample_shards: list[Shard]) -> None:
    shard = sample_shards[2]
    captions = shard.table["caption"].to_pylist()
    captions[:3] = [None] * 3
    shard = shard.with_column("caption", pa.array(captions, pa.string()))
    shard = shard.with_column("similarity", pa.nulls(250))
    merged = merged_from(shard, 0)
    assert merged.nulls["caption"] == shard.table["caption"].null_count
    assert merged.nulls["similarity"] == 250
    assert_equals(pq.read_table(merged.path), shard, 0)


def test_captions_with_nul_bytes_and_invalid_utf8_are_merged_byte_for_byte(
    merged_from: Merge, sample_shards: list[Shard]
) -> None:
    captions: list[bytes] = [b"\x00", b"\xff\xfe\x00", b"a\x00b", *[b"\xc3"] * 247]
    shard = sample_shards[2].with_column("caption", pa.array(captions, pa.binary()).view(pa.string()))
    assert texts_of(pq.read_table(merged_from(shard, 0).path), "caption") == captions


def test_extra_columns_are_merged_when_they_are_asked_for(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[1]
    shard.place(store)
    extra: dict[str, ColumnType] = {"original_width": "Int32", "LICENSE": "String"}
    merged = merge_shard(store, 0, max_bad_fraction=0, extra_columns=extra)
    table = pq.read_table(merged.path)
    assert table["original_width"].to_pylist() == shard.table["original_width"].to_pylist()
    assert texts_of(table, "LICENSE") == shard.texts_of_column("LICENSE")
    assert merged.extra_columns == extra
    assert_equals(table, shard, 0)


def test_a_dataset_without_text_embeddings_is_merged_without_them(
    settings: Settings, sample_shards: list[Shard]
) -> None:
    store = ShardStore(settings.data_dir, sample_dataset(has_text=False))
    files = sample_shards[2].place(store)
    assert files.text is None
    table = pq.read_table(merge_shard(store, 0, max_bad_fraction=0).path)
    assert "text_embedding" not in table.column_names
    assert np.array_equal(vectors_of(table, "image_embedding"), sample_shards[2].images.astype(np.float32))


def test_progress_counts_every_row_once(
    store: ShardStore, sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 100)
    sample_shards[1].with_vector(3, 0).place(store)
    done: list[int] = []
    merge_shard(store, 0, max_bad_fraction=0.1, progress=done.append)
    assert done == [100] * 6 + [20]


def test_the_facts_of_a_merged_file_are_in_its_footer(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[1], 3)
    read = read_merged(store.merged_path(3), dataset=store.dataset, shard=3)
    assert replace(read, digest=merged.digest) == merged
    assert (read.dataset, read.shard, read.rows) == ("sample", 3, 620)
    assert read.source_bytes == {path.name: path.stat().st_size for path in store.raw_files(3).paths().values()}
    assert read.file_bytes == merged.path.stat().st_size


def test_a_merged_file_of_another_shard_is_refused(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 3)
    merged.path.rename(str(store.merged_path(1)))
    with pytest.raises(ShardFileError) as caught:
        read_merged(store.merged_path(1), dataset=store.dataset, shard=1)
    assert_one_line(
        caught.value, "shard 1, merged_1.parquet", "shard 3, 250 rows", "materialize raw_shard and merged_shard"
    )


def test_a_merged_file_of_another_dataset_is_refused(merged_from: Merge, sample_shards: list[Shard]) -> None:
    merged = merged_from(sample_shards[2], 3)
    with pytest.raises(ShardFileError) as caught:
        read_merged(merged.path, dataset=load_dataset("laion400m"), shard=3)
    assert_one_line(
        caught.value,
        "dataset sample",
        "expected dataset laion400m",
        "materialize raw_shard and merged_shard",
    )


@pytest.mark.parametrize(
    ("field", "value", "found", "expected"),
    [
        ("dimension", 96, "dimension 512", "dimension 96"),
        ("has_text", False, "rows with text vectors", "rows without text vectors"),
    ],
)
def test_a_merged_file_of_the_dataset_as_it_was_described_before_is_refused(
    field: str, value: object, found: str, expected: str, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 3)
    with pytest.raises(ShardFileError) as caught:
        read_merged(merged.path, dataset=sample_dataset(**{field: value}), shard=3)
    assert_one_line(
        caught.value,
        "found dataset sample, shard 3",
        found,
        expected,
        "materialize raw_shard and merged_shard",
    )


def test_a_merged_file_of_a_later_release_is_read_if_its_format_is_ours(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    merged = merged_from(sample_shards[2], 3)
    table = pq.read_table(merged.path)
    facts = json.loads(pq.read_metadata(merged.path).metadata[FACTS_KEY])

    def written(**changed: object) -> MergedShard:
        footer = {FACTS_KEY: json.dumps(facts | {"a_later_fact": {"of": 1}} | changed).encode()}
        pq.write_table(table.replace_schema_metadata(footer), merged.path)
        return read_merged(merged.path, dataset=store.dataset, shard=3)

    assert written().contents == merged.contents
    with pytest.raises(ShardFileError) as caught:
        written(format=FORMAT + 1, alignment="said in another way")
    assert_one_line(
        caught.value, f"found format {FORMAT + 1}, expected format {FORMAT}", "use the release that wrote it"
    )
    with pytest.raises(ShardFileError, match="a footer that lacks facts"):
        written(alignment=None)


def test_the_digest_of_the_contents_follows_every_column_and_not_the_source(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    first = merged_from(shard, 3)
    assert (len(first.contents), first.raw_version) == (16, ""), "these raw files have no note of their origin"
    for path in store.raw_files(3).paths().values():
        origin_path(path).write_text("another mirror")
    again = merge_shard(store, 3, max_bad_fraction=0)
    assert again.contents == first.contents
    assert len(again.raw_version) == 16
    captions = shard.texts_of_column("caption")
    other = [captions[0].swapcase(), *captions[1:]]
    changed = [
        shard.with_column("caption", pa.array(other, pa.binary()).cast(pa.string())),
        shard.with_vector(0, shard.images[1]),
        shard.with_vector(0, shard.texts[1], kind="texts"),
        shard.head(249),
    ]
    assert len({first.contents, *(merged_from(each, 3).contents for each in changed)}) == 5


def test_files_that_we_did_not_merge_are_refused(store: ShardStore, sample_folder: Path) -> None:
    path = store.merged_path(0)
    path.parent.mkdir(parents=True)
    for content, said in (
        (None, "no such file"),
        ((sample_folder / "metadata" / "metadata_0.parquet").read_bytes(), "without laion_assets metadata"),
        (b"", "expected a merged Parquet file"),
        (b"PAR1 but no more PAR1", "expected a merged Parquet file"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ShardFileError) as caught:
            read_merged(path, dataset=store.dataset, shard=0)
        assert_one_line(
            caught.value, "shard 0, merged_0.parquet", said, "materialize raw_shard and merged_shard for partition 0"
        )


def test_raw_files_that_are_gone_are_named_with_what_to_do(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    with pytest.raises(StoreError) as caught:
        merge_shard(store, 2, max_bad_fraction=0)
    assert_one_line(caught.value, "img_emb_2.npy", "text_emb_2.npy", "metadata_2.parquet", "raw_shard for partition 2")
    assert "LAION_KEEP_RAW" not in str(caught.value)
    merged_from(sample_shards[2], 2)
    assert store.remove_raw(2) > 0
    assert store.raw_files(2).missing()
    with pytest.raises(StoreError) as caught:
        merge_shard(store, 2, max_bad_fraction=0)
    assert_one_line(caught.value, "a merge removes them, unless LAION_KEEP_RAW is true", "materialize raw_shard")


def start_merge(store: ShardStore, *, before: str = "", progress: str = "None") -> subprocess.Popen[str]:
    """Starts a process that runs `before`, merges shard 0 of a store and prints the result."""
    program = f"""
    import os, resource, signal, sys
    from pathlib import Path
    from laion_assets.dataset import load_dataset
    from laion_assets.errors import LaionError
    from laion_assets.shard import merge
    from laion_assets.shard.store import ShardStore
    merge.BLOCK_ROWS = 100
    store = ShardStore(Path(sys.argv[1]), load_dataset("sample"))
    def run():
        try:
            print(merge.merge_shard(store, 0, max_bad_fraction=0, progress={progress}).rows, "rows")
        except LaionError as error:
            print(type(error).__name__, error)
    {before}
    run()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(store.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_disk_that_is_full_is_a_clear_error_and_leaves_nothing_half(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    before = merged_from(sample_shards[0], 0).path.read_bytes()
    assert len(before) > 800_000
    # The process has a limit on the size of its files: a write beyond it fails as on a full disk. The three limits make
    # the first bytes, a row group and one of the last writes fail.
    merging = start_merge(
        store,
        before="""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in (3, 50_000, 800_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        run()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os._exit(sys.stdout.flush() or 0)
    """,
    )
    said, warned = merging.communicate(timeout=60)
    assert warned == ""
    lines = said.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("StoreError shard 0, ")
        assert "merged_0.parquet: found " in line
        assert "File too large" in line
        assert "ulimit -f" in line
    assert store.merged_path(0).read_bytes() == before
    assert leftovers(store) == []


def test_a_folder_that_cannot_be_made_is_a_clear_error(store: ShardStore, sample_shards: list[Shard]) -> None:
    sample_shards[2].place(store)
    store.merged_path(0).parent.write_text("a file where the folder should be")
    with pytest.raises(StoreError) as caught:
        merge_shard(store, 0, max_bad_fraction=0)
    assert_one_line(caught.value, "shard 0", "merged_0.parquet", "LAION_DATA_DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_clear_error(store: ShardStore, sample_shards: list[Shard]) -> None:
    sample_shards[2].place(store)
    folder = store.merged_path(0).parent
    folder.mkdir()
    folder.chmod(0o555)
    with pytest.raises(StoreError, match="Permission denied"):
        merge_shard(store, 0, max_bad_fraction=0)
    folder.chmod(0o755)


def test_two_processes_that_merge_a_shard_at_once_both_succeed(store: ShardStore, sample_shards: list[Shard]) -> None:
    shard = sample_shards[0]
    shard.place(store)
    merging = [start_merge(store) for _ in range(2)]
    for process in merging:
        assert process.communicate(timeout=60) == ("1000 rows\n", "")
    assert_equals(pq.read_table(store.merged_path(0)), shard, 0)
    assert leftovers(store) == []


def test_a_merge_that_was_killed_leaves_the_earlier_file_and_is_swept_by_the_next(
    store: ShardStore, merged_from: Merge, sample_shards: list[Shard]
) -> None:
    before = merged_from(sample_shards[0], 0).path.read_bytes()
    merging = start_merge(store, progress="lambda rows: os.kill(os.getpid(), signal.SIGKILL)")
    merging.communicate(timeout=60)
    assert merging.returncode == -signal.SIGKILL
    assert store.merged_path(0).read_bytes() == before
    assert leftovers(store) != []
    assert_equals(pq.read_table(merge_shard(store, 0, max_bad_fraction=0).path), sample_shards[0], 0)
    assert leftovers(store) == []
