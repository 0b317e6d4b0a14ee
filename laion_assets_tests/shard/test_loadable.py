"""Tests of the rule when a merged file may be loaded: merged by the description that there is, of the locked files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from laion_assets.columns import ColumnType
from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.listing import Listing
from laion_assets.shard.loadable import require_loadable
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import MergedShard
from laion_assets.shard.store import ShardStore
from laion_assets_tests.conftest import Shard, assert_one_line, sample_dataset

EXTRA: dict[str, ColumnType] = {"width": "Int32"}


def merge(store: ShardStore, shard: Shard, dataset: Dataset, extra: Mapping[str, ColumnType] = EXTRA) -> MergedShard:
    """Merges a shard as shard 0 of a dataset."""
    shard.with_column("width", pa.array([7] * shard.rows)).place(store)
    return merge_shard(replace(store, dataset=dataset), 0, max_bad_fraction=0, extra_columns=dict(extra))


def require(merged: MergedShard, dataset: Dataset, extra: Mapping[str, ColumnType] = EXTRA) -> None:
    """Requires that the file may be loaded."""
    require_loadable(merged, dataset, max_bad_fraction=0, extra_columns=extra)


CHANGES: dict[str, dict[str, object]] = {
    "columns": {"columns": {"caption": "url"}},
    "columns of an extra column": {"columns": {"width": "height"}},
    "defaults": {"defaults": {"NSFW": "UNLIKELY"}},
    "normalised": {"normalised": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_of_another_description_is_refused(change: str, store: ShardStore, sample_shards: list[Shard]) -> None:
    merged = merge(store, sample_shards[2], sample_dataset())
    require(merged, sample_dataset())
    with pytest.raises(ShardFileError) as caught:
        require(merged, sample_dataset(**CHANGES[change]))
    assert_one_line(caught.value, "merged by another description", "materialize raw_shard and merged_shard")


def test_a_file_whose_rows_were_not_compared_is_refused_once_they_should_be(
    store: ShardStore, sample_shards: list[Shard]
) -> None:
    off = sample_dataset(alignment="off")
    with pytest.raises(ShardFileError, match="merged by another description"):
        require(merge(store, sample_shards[2], off), sample_dataset())
    require(merge(store, sample_shards[2], sample_dataset()), off)


def test_a_misaligned_file_is_refused_unless_the_dataset_says_not_to_compare(
    store: ShardStore, sample_shards: list[Shard]
) -> None:
    shard = sample_shards[2]
    merged = merge(store, replace(shard, texts=np.roll(shard.texts, 7, 0)), sample_dataset())
    with pytest.raises(ShardFileError) as caught:
        require(merged, sample_dataset())
    assert_one_line(caught.value, "rows that do not belong together", "laion-assets load --again 0")
    require(merged, sample_dataset(alignment="off"))


@pytest.mark.parametrize("extra", [{}, {"width": "Int64"}, {"width": "Int32", "height": "Int32"}], ids=str)
def test_a_file_with_other_extra_columns_is_refused(
    extra: dict[str, ColumnType], store: ShardStore, sample_shards: list[Shard]
) -> None:
    merged = merge(store, sample_shards[2], sample_dataset())
    with pytest.raises(ShardFileError, match="the extra columns width Int32 where"):
        require(merged, sample_dataset(), extra)


def test_a_default_that_nulls_have_anyway_changes_nothing(store: ShardStore, sample_shards: list[Shard]) -> None:
    require(merge(store, sample_shards[2], sample_dataset()), sample_dataset(defaults={"caption": ""}))


def test_a_file_from_before_the_digest_is_used(store: ShardStore, sample_shards: list[Shard]) -> None:
    merged = replace(merge(store, sample_shards[2], sample_dataset()), rules="")
    require(merged, sample_dataset(normalised=False))


def test_a_file_that_was_made_of_other_files_than_the_locked_ones_is_refused(
    store: ShardStore, sample_shards: list[Shard]
) -> None:
    merged = merge(store, sample_shards[2], sample_dataset())
    kinds = {kind: merged.source_bytes[store.dataset.file_name(kind, 0)] for kind in store.dataset.file_kinds}

    def locked(changed: int) -> Dataset:
        files = {kind: {"url": f"x/{kind}", "size": size + changed * (kind == "image")} for kind, size in kinds.items()}
        listing = Listing.model_validate({"source": "x", "shards": {0: {"files": files}}})
        return sample_dataset().model_copy(update={"listing": listing})

    require(merged, locked(0))
    with pytest.raises(ShardFileError) as caught:
        require(merged, locked(1))
    assert_one_line(caught.value, "rows from img_emb_0.npy of 256,128 bytes where the lock file has 256,129")
