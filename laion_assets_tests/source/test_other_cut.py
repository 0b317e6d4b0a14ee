"""Tests of a dataset whose large files are now cut into other shards: shares of the earlier cut must not be used.

The vectors have few numbers, and each row's caption is its row number in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import ShardFileError, TableShapeError
from laion_assets.settings import Settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import read_merged
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.schema import create_table, partitions, require_table
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.fetching import QUICK, settings_for

ROWS = 800


def cut_into(folder: Path, count: int, first: int = 0) -> Settings:
    """Returns settings of the dataset with `count` shards for each file."""
    (folder / "d.toml").write_text(
        f'name = "d"\nshards = {count}\nshards_per_file = {count}\nfirst_file = {first}\ndimension = 8\n'
        'has_text = false\nimage_file = "p_{file}.parquet"\nmetadata_file = "p_{file}.parquet"\nimage_array = "e"\n'
        '[defaults]\nNSFW = ""\nsimilarity = nan\n'
        '[[sources]]\nurl = "files"\nfolders = { image = "", text = "", metadata = "" }\n'
    )
    return settings_for(folder / "files", data_dir=folder / "data", dataset=folder / "d.toml")


def captions(settings: Settings) -> list[int]:
    """Fetches and merges shard 1, and returns its first and last caption."""
    store = ShardStore.of(settings)
    fetch_shard(settings, 1, store.raw_folder, limits=QUICK)
    column = pq.read_table(merge_shard(store, 1, max_bad_fraction=0).path)["caption"].to_pylist()
    return [int(column[0]), int(column[-1])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A source with two files of 800 rows in row groups of 100."""
    (tmp_path / "files").mkdir()
    for file in range(2):
        vectors = np.random.default_rng(file).standard_normal((ROWS, 8))
        numbers = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4").reshape(-1)
        columns = {
            "e": pa.FixedSizeListArray.from_arrays(pa.array(numbers), 8),
            "url": [f"https://example.org/{row}.jpg" for row in range(ROWS)],
            "caption": [f"{row + file * ROWS}" for row in range(ROWS)],
        }
        pq.write_table(pa.table(columns), tmp_path / "files" / f"p_{file}.parquet", row_group_size=100)
    return tmp_path


@pytest.mark.parametrize(("count", "first", "rows"), [(2, 0, [400, 799]), (4, 1, [1000, 1199]), (1, 0, [800, 1599])])
def test_a_share_of_another_cut_is_fetched_and_merged_again(
    count: int, first: int, rows: list[int], folder: Path
) -> None:
    assert captions(cut_into(folder, 4)) == [200, 399]
    changed = cut_into(folder, count, first)
    if count == 1:
        text = (folder / "d.toml").read_text()
        (folder / "d.toml").write_text(text.replace("shards = 1\n", "shards = 2\n"))
        changed = settings_for(folder / "files", data_dir=folder / "data", dataset=folder / "d.toml")
    store = ShardStore.of(changed)
    with pytest.raises(ShardFileError) as caught:
        read_merged(store.merged_path(1), dataset=changed.dataset, shard=1)
    assert_one_line(
        caught.value, "made from p_0.shard-1.share-1-of-4.parquet", store.raw_files(1).metadata.name, "materialize"
    )
    assert captions(changed) == rows


@pytest.mark.parametrize(
    ("count", "first", "said"), [(2, 0, "2 shards a file from 0"), (4, 1, "4 shards a file from 1")]
)
def test_a_table_of_shards_of_another_cut_is_refused(count: int, first: int, said: str, folder: Path) -> None:
    with connect(cut_into(folder, 4)) as db:
        create_table(db)
    with connect(cut_into(folder, count, first)) as db:
        for look in (create_table, require_table, partitions):
            with pytest.raises(TableShapeError) as caught:
                look(db)
            assert_one_line(caught.value, "without text vectors, 4 shards a file from 0", said, "LAION_TABLE")
