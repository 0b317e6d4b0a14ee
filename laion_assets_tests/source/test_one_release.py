"""Tests that all files of a shard come from one source: sources may have releases with different orders of rows.

The axis of the vectors and the caption tell which release a row is from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from laion_assets.errors import PermanentSourceError
from laion_assets.source.fetch import FetchedFile
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.misbehaving_server import misbehaving_server
from laion_assets_tests.source.test_other_source import TOML, axis_of, fetch, of, write

IMAGE, METADATA = "img_emb_0.npy", "metadata_0.parquet"


def places(fetched: list[FetchedFile]) -> list[str]:
    """Returns the folder of the source of each file."""
    return [Path(file.url).parent.name for file in fetched]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A dataset without text vectors, with two releases: old and new."""
    write(tmp_path / "old", 1)
    write(tmp_path / "new", 2)
    (tmp_path / "d.toml").write_text(TOML)
    return tmp_path / "d.toml"


@pytest.mark.parametrize("missing", [IMAGE, METADATA])
def test_the_first_source_that_has_every_file_gives_them_all(missing: str, toml: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / missing).unlink()
    both = of(toml, tmp_path / "old", tmp_path / "new")
    assert places(fetch(both)) == ["new", "new"]
    assert axis_of(both) == (2, "2")


def test_it_does_so_over_http(toml: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    with misbehaving_server({IMAGE: (tmp_path / "old" / IMAGE).read_bytes()}) as old, misbehaving_server(files) as new:
        both = of(toml, old.base(), new.base())
        assert all(file.url.startswith(new.base()) for file in fetch(both))
        assert axis_of(both) == (2, "2")
        assert [file.tries for file in fetch(both)] == [0, 0]


def test_a_mixture_that_nothing_can_check_is_refused_until_a_source_has_all(toml: Path, tmp_path: Path) -> None:
    (tmp_path / "old" / METADATA).rename(tmp_path / "metadata")
    (tmp_path / "new" / IMAGE).rename(tmp_path / "image")
    both = of(toml, tmp_path / "old", tmp_path / "new")
    with pytest.raises(PermanentSourceError) as caught:
        fetch(both)
    assert_one_line(
        caught.value, f"{IMAGE} from {tmp_path}/old, {METADATA} from {tmp_path}/new", "one release", "LAION_MANIFEST"
    )
    (tmp_path / "image").rename(tmp_path / "new" / IMAGE)
    log: list[str] = []
    fetch(both, log)
    assert axis_of(both) == (2, "2")
    assert any(f"{IMAGE} came from {tmp_path}/old" in line for line in log)


def test_a_mixture_whose_sha256_are_known_is_taken(toml: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    lines = {}
    for release, name, gone in (("old", IMAGE, METADATA), ("new", METADATA, IMAGE)):
        lines[name] = hashlib.sha256((tmp_path / release / name).read_bytes()).hexdigest()
        (tmp_path / release / gone).unlink()
    manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in lines.items()))
    both = of(toml, tmp_path / "old", tmp_path / "new").model_copy(update={"manifest": manifest})
    assert places(fetch(both)) == ["old", "new"]


def test_a_mixture_that_text_vectors_check_is_said(toml: Path, tmp_path: Path) -> None:
    toml.write_text(TOML.replace("has_text = false", ""))
    (tmp_path / "old" / IMAGE).rename(tmp_path / "old" / "text_emb_0.npy")
    log: list[str] = []
    assert places(fetch(of(toml, tmp_path / "new", tmp_path / "old"), log)) == ["new", "old", "new"]
    assert any("no source has every file" in line for line in log)
