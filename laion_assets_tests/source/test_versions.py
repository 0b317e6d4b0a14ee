"""Tests of a shard's data version: it changes with the shard's files, and not with the mirror that answers."""

from __future__ import annotations

import json

from laion_assets.file_layout import FileKind
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.versions import shard_version


def files(mirror: str, etag: str, size: int | None = 1_000) -> dict[FileKind, RemoteFile]:
    return {
        "image": RemoteFile(f"{mirror}/img emb/img_emb_0.npy", size, f'"{etag}; {etag}"', None),
        "metadata": RemoteFile(f"{mirror}/metadata/metadata_0.parquet", 10, None, "Mon, 02 Aug 2021 10:00:00 GMT"),
    }


URLS = [file.url for mirror in ("https://a.example", "/mnt/b") for file in files(mirror, "").values()]
"""The URLs and paths that the files may have."""

FIRST = shard_version(files("https://a.example", "one"), None, [])


def test_another_file_of_the_same_mirror_is_another_version() -> None:
    assert shard_version(files("https://a.example", "one"), FIRST, URLS) == FIRST
    assert shard_version(files("https://a.example", "two"), FIRST, URLS) != FIRST


def test_the_same_sizes_of_another_mirror_are_the_same_version() -> None:
    assert shard_version(files("/mnt/b", "other"), FIRST, URLS) == FIRST
    changed = shard_version(files("/mnt/b", "other", size=1_001), FIRST, URLS)
    assert json.loads(changed)["image"] == {"version": '"other; other"', "bytes": 1_001, "from": "/mnt/b/img emb"}
    assert json.loads(changed)["metadata"] == json.loads(FIRST)["metadata"]


def test_a_size_that_is_not_known_says_nothing() -> None:
    assert shard_version(files("/mnt/b", "other", size=None), FIRST, URLS) != FIRST


def test_a_recorded_version_of_another_form_says_nothing() -> None:
    for other in ("", "image: 1, 1000 bytes from https://a.example", "[]", '{"image": "1"}'):
        assert shard_version(files("https://a.example", "one"), other, URLS) == FIRST
