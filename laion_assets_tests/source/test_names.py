"""Tests of names of numbered files: finding a series, and advice from the names near a missing file."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from laion_assets.dataset import parse_dataset
from laion_assets.errors import PermanentSourceError
from laion_assets.settings import load_settings
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.names import find_series, near_miss
from laion_assets_tests.source.misbehaving_server import misbehaving_server


@pytest.mark.parametrize(
    ("names", "pattern", "shards", "digits"),
    [
        (["img_emb_0.npy", "img_emb_10.npy", "img_emb_2.npy"], "img_emb_{shard}.npy", (0, 2, 10), 1),
        (["img_emb_0000.npy", "img_emb_0001.npy"], "img_emb_{shard}.npy", (0, 1), 4),
        (["part_1_of_10.parquet", "part_2_of_10.parquet"], "part_{shard}_of_10.parquet", (1, 2), 1),
        (["train-00-of-99.npy", "train-01-of-99.npy"], "train-{shard}-of-99.npy", (0, 1), 2),
        (["v2_emb_0.npy"], "v2_emb_{shard}.npy", (0,), 1),
        (["emb_1.npy", "notes.txt", "readme"], "emb_{shard}.npy", (1,), 1),
        (["emb_00007.npy"], "emb_{shard}.npy", (7,), 5),
    ],
)
def test_names_that_differ_in_one_number_are_a_series(
    names: list[str], pattern: str, shards: tuple[int, ...], digits: int
) -> None:
    first = find_series(names)[0]
    assert (first.pattern, first.shards, first.digits) == (pattern, shards, digits)


def test_numbers_that_no_shard_can_have_make_no_series() -> None:
    assert find_series(["emb_65536.npy", "emb_{x}_1.npy", "d41d8cd98f00b204e9800998ecf8427e.parquet"]) != []
    assert all(max(series.shards) < 65_536 for series in find_series(["emb_65536.npy", "a_999999999.npy"]))


TOML = 'name = "gaps"\nshards = 5\n{}dimension = 8\n[[sources]]\nurl = "{}"\n'


@pytest.mark.parametrize(
    ("digits", "names", "said"),
    [
        ("", ["img_emb_0000.npy"], "img_emb_0000.npy is there: digits = 4?"),
        ("digits = 5\n", ["img_emb_0.npy"], "img_emb_0.npy is there: digits = 1?"),
        ("", ["img_emb_1.npy", "img_emb_2.npy", "img_emb_4.npy"], 'shards = "1-2, 4"?'),
        ("", ["images-00.npy", "images-01.npy"], 'image_file = "images-{shard}.npy"?'),
    ],
)
def test_what_lies_near_a_missing_file_is_named(digits: str, names: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "img_emb").mkdir()
    for name in names:
        (tmp_path / "img_emb" / name).write_bytes(b"")
    advice = _advice(digits, str(tmp_path), tmp_path)
    assert said in advice
    assert "laion-assets describe" in advice


@pytest.mark.parametrize(
    ("digits", "name", "said"),
    [
        ("", "img_emb_0000.npy", "img_emb_0000.npy is there: digits = 4?"),
        ("digits = 5\n", "img_emb_0.npy", "img_emb_0.npy is there: digits = 1?"),
        ("", "img_emb_1.npy", 'those of shards 1: shards = "1"?'),
    ],
)
def test_names_near_a_missing_one_are_asked_for_where_a_server_lists_nothing(
    digits: str, name: str, said: str, tmp_path: Path
) -> None:
    with misbehaving_server({name: b""}) as server:
        assert said in _advice(digits, server.base(), tmp_path)
    assert len(server.requests) < 30


def test_what_a_web_server_lists_beside_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "served" / "img_emb").mkdir(parents=True)
    for name in ("pictures-007.npy", "pictures-008.npy"):
        (tmp_path / "served" / "img_emb" / name).write_bytes(b"")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        advice = _advice("", f"http://127.0.0.1:{server.server_port}", tmp_path)
        server.shutdown()
    assert 'pictures-{shard}.npy is there (7-8): image_file = "pictures-{shard}.npy"?' in advice


def _advice(digits: str, url: str, folder: Path) -> str:
    """Returns the advice of the error when shard 0 is not at `url`."""
    toml = folder / "gaps.toml"
    toml.write_text(TOML.format(digits, url))
    settings = load_settings(dataset_name=str(toml), data_dir=folder / "data", http_connections=1)
    with pytest.raises(PermanentSourceError) as caught:
        fetch_shard(settings, 0, folder / "data" / "raw")
    return caught.value.advice


def test_where_nothing_is_near_nothing_is_said() -> None:
    dataset = parse_dataset(TOML.format("", "/x"), "gaps.toml")
    assert near_miss(dataset, "image", 0, ["readme.txt", "metadata_0.parquet"]) == ""
    assert near_miss(dataset, "image", 0, []) == ""
