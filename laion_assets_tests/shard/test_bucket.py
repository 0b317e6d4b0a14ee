"""Tests of a bucket as the store: objects appear whole or not at all; local copies are used while they are current."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs

from laion_assets.errors import MissingRawError, StoreError
from laion_assets.shard.bucket import PART_BYTES, bucket_path, get, put, remove
from laion_assets.shard.places import file_exists
from laion_assets.shard.store import ShardStore
from laion_assets_tests.bucket import SECRET, Request, S3Server, keys, s3_server
from laion_assets_tests.conftest import SAMPLE, Shard, assert_one_line

URL = "s3://laion/store"


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as made:
        yield made


@pytest.fixture
def store(server: S3Server, tmp_path: Path) -> Iterator[ShardStore]:
    yield ShardStore(tmp_path / "here", SAMPLE, URL)
    for key in keys("store"):
        remove(bucket_path(URL, key), subject=key)
    server.requests.clear()


def large_file(folder: Path) -> Path:
    """Writes a file that is uploaded in three parts."""
    path = folder / "large"
    path.write_bytes(np.random.default_rng(1).bytes(2 * PART_BYTES + 1_000))
    return path


def files(folder: Path) -> list[str]:
    """Returns the names of a folder's files without lock files, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def downloads(server: S3Server) -> list[str]:
    """Returns the names of the objects that were read since the last call."""
    read = [request.path.rpartition("/")[2] for request in server.requests if request.method == "GET"]
    server.requests.clear()
    return [name for name in read if "?" not in name]


def test_a_large_file_goes_in_parts_and_comes_back_byte_for_byte(server: S3Server, store: ShardStore) -> None:
    store.folder.mkdir()
    path, target = large_file(store.folder), bucket_path(URL, "large")
    put(path, target, subject="large")
    assert sum("partNumber=" in request.path for request in server.requests) == 3
    get(target, store.folder / "back", subject="large")
    assert (store.folder / "back").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("before", [None, b"the old one"])
def test_an_upload_that_was_killed_changes_nothing(
    before: bytes | None, server: S3Server, store: ShardStore, tmp_path: Path
) -> None:
    target = bucket_path(URL, "large")
    if before is not None:
        target.write_bytes(before)
    program = (
        "import sys; from pathlib import Path; from laion_assets.shard.bucket import bucket_path, put; "
        f"put(Path(sys.argv[1]), bucket_path({URL!r}, 'large'), subject='large')"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(large_file(tmp_path))]) as process:

        def kill_at_the_second_part(request: Request) -> None:
            if "partNumber=2" in request.path:
                process.kill()

        server.on_request = kill_at_the_second_part
        try:
            assert process.wait(120) == -9
        finally:
            server.on_request = None
    assert keys("store") == ([] if before is None else ["large"])
    assert before is None or target.read_bytes() == before


def test_a_step_on_another_host_finds_the_raw_files(
    server: S3Server, store: ShardStore, tmp_path: Path, sample_shards: list[Shard]
) -> None:
    placed = sample_shards[2].place(store, 3)
    store.publish_raw(3)
    assert keys("store/raw") == ["img_emb_3.npy", "metadata_3.parquet", "text_emb_3.npy"]
    elsewhere = ShardStore(tmp_path / "elsewhere", SAMPLE, URL)
    found = elsewhere.require_raw(3)
    assert found.image.is_relative_to(tmp_path / "elsewhere")
    assert [path.read_bytes() for path in found.paths().values()] == [
        path.read_bytes() for path in placed.paths().values()
    ]


def test_a_copy_is_used_while_it_is_the_objects(
    server: S3Server, store: ShardStore, tmp_path: Path, sample_shards: list[Shard]
) -> None:
    sample_shards[2].place(store, 0)
    store.publish_raw(0)
    server.requests.clear()
    store.require_raw(0)
    store.publish_raw(0)
    assert downloads(server) == []

    elsewhere = ShardStore(tmp_path / "elsewhere", SAMPLE, URL)
    sample_shards[3].place(elsewhere, 0)
    elsewhere.publish_raw(0)
    server.requests.clear()
    assert store.require_raw(0).image.read_bytes() == elsewhere.raw_files(0).image.read_bytes()
    assert sorted(downloads(server)) == ["img_emb_0.npy", "metadata_0.parquet", "text_emb_0.npy"]

    store.raw_files(0).image.write_bytes(b"spoilt")
    assert store.require_raw(0).image.read_bytes() == elsewhere.raw_files(0).image.read_bytes()
    assert downloads(server) == ["img_emb_0.npy"]


def test_files_are_removed_here_and_there(store: ShardStore, sample_shards: list[Shard]) -> None:
    placed = sample_shards[2].place(store, 1)
    size = sum(path.stat().st_size for path in placed.paths().values())
    store.publish_raw(1)
    store.drop_copies(1)
    assert files(store.raw_folder) == []
    assert len(keys("store/raw")) == 3
    store.require_raw(1)
    assert store.remove_raw(1) == size
    assert keys("store/raw") == []
    assert files(store.raw_folder) == []
    assert store.remove_raw(1) == 0
    with pytest.raises(MissingRawError) as caught:
        store.require_raw(1)
    assert_one_line(caught.value, "img_emb_1.npy", f"in {URL}/raw", "materialize raw_shard for partition 1 first")


def test_a_bucket_that_is_not_there_is_an_error_that_says_what_to_look_at(server: S3Server, tmp_path: Path) -> None:
    path = large_file(tmp_path)
    with pytest.raises(StoreError) as caught:
        put(path, bucket_path("s3://nowhere/store", "x"), subject="shard 3, x")
    assert_one_line(caught.value, "shard 3, x", "LAION_STORE", "AWS_*")


def test_a_store_that_cannot_be_reached_is_an_error_without_its_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StoreError) as caught:
            file_exists(ShardStore(tmp_path, SAMPLE, URL).merged_path(0))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert_one_line(caught.value, f"{URL}/merged/merged_0.parquet", "127.0.0.1:9", "LAION_STORE")
    assert SECRET not in str(caught.value)
