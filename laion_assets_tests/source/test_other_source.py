"""Tests of LAION_SOURCE changed to a dataset with the same file names and sizes: its files are fetched and merged.

The axis of the vectors and the caption tell which dataset a row is from.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import TooManyBadRowsError
from laion_assets.settings import Settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import FetchedFile, fetch_shard
from laion_assets.source.observe import observe_version
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import misbehaving_server

TOML = """name = "d"
shards = 1
dimension = 8
has_text = false
[[sources]]
url = "unused"
folders = { image = "", text = "", metadata = "" }
"""
ROWS = 300


def write(folder: Path, axis: int, *, zeros: int = 0) -> Path:
    """Writes a dataset of one shard whose vectors all have this axis; the first `zeros` vectors are zero."""
    folder.mkdir()
    vectors = np.zeros((ROWS, 8), "<f2")
    vectors[zeros:, axis] = 1
    np.save(folder / "img_emb_0.npy", vectors)
    columns = {"url": [f"http://x/{axis}/{row:03d}" for row in range(ROWS)], "caption": [f"{axis}"] * ROWS}
    table = pa.table({**columns, "NSFW": [""] * ROWS, "similarity": [0.3] * ROWS})
    pq.write_table(table, folder / "metadata_0.parquet")
    return folder


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "d.toml").write_text(TOML)
    return tmp_path / "d.toml"


def of(toml: Path, *sources: str | Path) -> Settings:
    """Returns settings of the dataset with these sources."""
    return settings_for(*sources, data_dir=toml.parent / "data", dataset=toml)


def fetch(settings: Settings, log: list[str] | None = None) -> list[FetchedFile]:
    """Fetches the files of shard 0."""
    say = None if log is None else log.append
    return fetch_shard(settings, 0, ShardStore.of(settings).raw_folder, limits=QUICK, log=say)


def axis_of(settings: Settings) -> tuple[int, str]:
    """Merges shard 0, and returns the axis of its first vector and its first caption."""
    merged = pq.read_table(merge_shard(ShardStore.of(settings), 0, max_bad_fraction=0.01).path)
    return int(np.argmax(merged["image_embedding"][0].as_py())), merged["caption"][0].as_py()


def test_files_of_another_dataset_with_the_same_sizes_are_fetched(toml: Path, tmp_path: Path) -> None:
    first, second = of(toml, write(tmp_path / "a", 1)), of(toml, write(tmp_path / "b", 2))
    fetch(first)
    before = observe_version(first, 0, None)
    log: list[str] = []
    assert [file.tries for file in fetch(second, log)] == [1, 1]
    assert str(tmp_path / "a") in log[0] and "fetched again" in log[0]
    assert axis_of(second) == (2, "2")
    assert observe_version(second, 0, before) != before
    assert observe_version(first, 0, before) == before


def test_a_corrected_copy_is_fetched_after_bad_rows_were_refused(toml: Path, tmp_path: Path) -> None:
    bad, good = of(toml, write(tmp_path / "bad", 1, zeros=50)), of(toml, write(tmp_path / "good", 1))
    fetch(bad)
    with pytest.raises(TooManyBadRowsError):
        axis_of(bad)
    fetch(good)
    assert axis_of(good) == (1, "1")


def test_a_mirror_of_the_same_list_has_the_same_files(toml: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "a", 1)
    both = of(toml, first, shutil.copytree(first, tmp_path / "mirror", copy_function=shutil.copyfile))
    fetch(both)
    before = observe_version(both, 0, None)
    shutil.rmtree(first)
    assert [file.tries for file in fetch(both)] == [0, 0]
    assert observe_version(both, 0, before) == before


def test_a_finished_part_of_another_dataset_is_not_taken(toml: Path, tmp_path: Path) -> None:
    """The run was killed after a file's last byte but before the file got its final name; then the source changed."""
    first, second = of(toml, write(tmp_path / "a", 1)), of(toml, write(tmp_path / "b", 2))
    raw = ShardStore.of(first).raw_folder
    raw.mkdir(parents=True)
    content = (tmp_path / "a" / "img_emb_0.npy").read_bytes()
    (raw / "img_emb_0.npy.part").write_bytes(content)
    (raw / "img_emb_0.npy.part.json").write_text(
        f'{{"url": "{tmp_path}/a/img_emb_0.npy", "etag": null, "modified": "1", "total": {len(content)}}}'
    )
    fetch(second)
    assert axis_of(second) == (2, "2")


def test_a_file_of_the_same_etag_at_a_new_address_is_the_same(toml: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1)
    with misbehaving_server({path.name: path.read_bytes() for path in folder.iterdir()}) as server:
        fetch(of(toml, server.base()))
        before = observe_version(of(toml, server.base()), 0, None)
        moved = of(toml, server.base("times=1"))
        assert [file.tries for file in fetch(moved)] == [0, 0]
        assert observe_version(moved, 0, before) == before
