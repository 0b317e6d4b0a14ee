"""The files of given queries follow their sources: other sources, and a changed file, are fetched again."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.file_layout import Given
from laion_assets.settings import Settings
from laion_assets.source.given import fetch_given
from laion_assets_tests.source.fetching import settings_for

TOML = """name = "d"
shards = 1
dimension = 8
has_text = false
[[sources]]
url = "unused"
folders = { image = "", text = "", metadata = "" }
[given]
queries = "test.parquet"
queries_array = "emb"
neighbours = "neighbors.parquet"
neighbours_array = "neighbors_id"
ids = "source_id"
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    (tmp_path / "d.toml").write_text(TOML)
    return tmp_path / "d.toml"


def source(folder: Path, text: str) -> Path:
    """A source whose two files have this text, in Parquet."""
    folder.mkdir(exist_ok=True)
    for name in ("test.parquet", "neighbors.parquet"):
        write(folder / name, text)
    return folder


def write(path: Path, text: str) -> None:
    """A Parquet file with one value."""
    pq.write_table(pa.table({"text": [text]}), path)


def fetched(toml: Path, folder: Path) -> list[str]:
    """The texts of both files, fetched from this source or found in the store."""
    settings: Settings = settings_for(folder, data_dir=toml.parent / "data", dataset=toml)
    given = settings.dataset.given
    assert isinstance(given, Given)
    return [pq.read_table(path)["text"][0].as_py() for path in fetch_given(settings, given)]


def test_files_of_another_source_replace_those_of_the_first(toml: Path, tmp_path: Path) -> None:
    assert fetched(toml, source(tmp_path / "a", "first")) == ["first", "first"]
    # The same names and the same sizes.
    assert fetched(toml, source(tmp_path / "b", "other")) == ["other", "other"]


def test_a_file_that_its_source_changed_is_fetched_again(toml: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "a", "first")
    fetched(toml, folder)
    changed = folder / "test.parquet"
    changed.unlink()  # The file of the store shares its bytes.
    write(changed, "third")
    os.utime(changed, (1_000_000_000, 1_000_000_000))
    assert fetched(toml, folder) == ["third", "first"]


def test_files_are_used_where_their_source_cannot_be_reached(toml: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "a", "first")
    fetched(toml, folder)
    folder.rename(tmp_path / "elsewhere")
    assert fetched(toml, folder) == ["first", "first"]
