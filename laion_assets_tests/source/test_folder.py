"""Tests of local folders, whose files are linked and never changed, and of object stores, checked like HTTP sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from laion_assets.errors import LaionError, PermanentSourceError, SettingsError, SourceError
from laion_assets.source.fetch import FetchedFile, fetch_shard
from laion_assets.source.observe import observe_shard
from laion_assets.source.partial import Origin
from laion_assets.source.places import local_folder
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer
from laion_assets_tests.source.served_shard import (
    CONTENT,
    FILES,
    IMAGE,
    METADATA,
    SHA256,
    SIZE,
    TEXT,
    kinds,
    leave_part,
)

THREE = (IMAGE, TEXT, METADATA)
FOLDERS = {IMAGE: "img_emb", TEXT: "text_emb", METADATA: "metadata"}


def write_shard(folder: Path) -> Path:
    """Writes the files of shard 0 into the dataset's three folders."""
    for name, subfolder in FOLDERS.items():
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        (folder / subfolder / name).write_bytes(FILES[name])
    return folder


def fetch(source: str | Path, tmp_path: Path, **fields: Any) -> list[FetchedFile]:
    """Fetches shard 0 from one source into the store's folder."""
    settings = settings_for(source, data_dir=tmp_path / "data", **fields)
    return fetch_shard(settings, 0, tmp_path / "data" / "raw", limits=QUICK)


def failure(source: str | Path, tmp_path: Path) -> LaionError:
    """Returns the error of a fetch that fails at its image file; checks that the file did not get its final name."""
    with pytest.raises(LaionError) as caught:
        fetch(source, tmp_path)
    assert not (tmp_path / "data" / "raw" / IMAGE).exists()
    return caught.value


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on a file system other than the test's; skips the test if there is none."""
    folder = Path("/dev/shm") / f"laion_assets_{os.getpid()}"  # noqa: S108 - it is removed after the test
    if not folder.parent.is_dir():
        pytest.skip("no second file system here")
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    folder.rmdir()


# A folder on this machine.


def test_a_local_folder_is_linked_not_copied(tmp_path: Path) -> None:
    originals = write_shard(tmp_path / "mine")
    fetched = fetch(originals, tmp_path)
    assert [file.path.name for file in fetched] == list(THREE)
    assert all(file.linked and file.bytes_fetched == 0 and file.tries == 1 for file in fetched)
    for file in fetched:
        original = originals / FOLDERS[file.path.name] / file.path.name
        assert file.path.samefile(original) and not file.path.is_symlink()
        assert file.url == str(original)


def test_removing_the_stores_file_leaves_the_original(tmp_path: Path) -> None:
    originals = write_shard(tmp_path / "mine")
    for file in fetch(originals, tmp_path):
        file.path.unlink()
    assert (originals / "img_emb" / IMAGE).read_bytes() == CONTENT


def test_removing_or_replacing_the_original_leaves_the_stores_file(tmp_path: Path) -> None:
    originals = write_shard(tmp_path / "mine")
    fetched = kinds(fetch(originals, tmp_path))
    (originals / "img_emb" / IMAGE).unlink()
    (originals / "other").write_bytes(b"other")
    (originals / "other").replace(originals / "text_emb" / TEXT)
    assert fetched["image"].path.read_bytes() == CONTENT
    assert fetched["text"].path.read_bytes() == FILES[TEXT]


def test_an_original_that_was_replaced_is_linked_anew_and_the_others_stand(tmp_path: Path) -> None:
    originals = write_shard(tmp_path / "mine")
    fetch(originals, tmp_path)
    (originals / "other").write_bytes(FILES["grown"])
    (originals / "other").replace(originals / "text_emb" / TEXT)
    again = kinds(fetch(originals, tmp_path))
    assert again["text"].path.samefile(originals / "text_emb" / TEXT)
    assert {kind: file.tries for kind, file in again.items()} == {"image": 0, "text": 1, "metadata": 0}
    assert [file.tries for file in fetch(originals, tmp_path)] == [0, 0, 0]


def test_on_another_disk_the_link_is_symbolic(tmp_path: Path, elsewhere: Path) -> None:
    if elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    write_shard(elsewhere)
    fetched = fetch(elsewhere, tmp_path)
    assert all(file.linked and file.path.is_symlink() for file in fetched)
    assert fetched[0].path.read_bytes() == CONTENT
    again = fetch(elsewhere, tmp_path)
    assert all(file.linked and file.tries == 0 for file in again)
    for file in fetched:
        file.path.unlink()
    assert (elsewhere / "img_emb" / IMAGE).read_bytes() == CONTENT


def test_links_of_the_user_are_followed(tmp_path: Path) -> None:
    write_shard(tmp_path / "disk")
    (tmp_path / "mine").symlink_to(tmp_path / "disk")
    (image,) = (file for file in fetch(tmp_path / "mine", tmp_path) if file.kind == "image")
    assert image.path.samefile(tmp_path / "disk" / "img_emb" / IMAGE) and not image.path.is_symlink()


def test_all_files_in_one_folder_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for name in THREE:
        (tmp_path / "flat" / name).write_bytes(FILES[name])
    assert len(fetch(tmp_path / "flat", tmp_path)) == 3


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}", "{}", "{}/"])
def test_folders_may_be_named_by_url_or_path(tmp_path: Path, form: str) -> None:
    write_shard(tmp_path / "my folder #1")
    named = str(tmp_path / "my folder #1")
    url = (tmp_path / "my folder #1").as_uri().removeprefix("file://") if form.startswith("file") else named
    assert local_folder(form.format(url)) == tmp_path / "my folder #1"


def test_a_relative_path_is_below_where_we_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert len(fetch("mine", tmp_path)) == 3


def test_a_file_url_with_two_slashes_is_explained(tmp_path: Path) -> None:
    error = failure("file://mine/shards", tmp_path)
    assert isinstance(error, SettingsError) and "three slashes" in str(error)


def test_the_stores_own_folder_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    error = failure(tmp_path / "data" / "raw", tmp_path)
    assert isinstance(error, SettingsError) and "removes its raw files" in str(error)


def test_a_file_that_is_not_there_is_permanent(tmp_path: Path) -> None:
    error = failure(tmp_path / "nothing", tmp_path)
    assert isinstance(error, PermanentSourceError) and f"{tmp_path}/nothing/" in str(error)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGE, CONTENT[:-1], f"{SIZE - 1} bytes, expected {SIZE} as its header says"),
        (IMAGE, CONTENT + b"x", f"{SIZE + 1} bytes"),
        (IMAGE, b"<html>down</html>", "an HTML or XML page"),
        (IMAGE, FILES[METADATA], "an npy file, which starts"),
        (IMAGE, b"", "b''"),
        (IMAGE, CONTENT.replace(b"'<f2'", b"'|O' "), "pickled Python objects"),
        (IMAGE, CONTENT[:6] + b"\x04" + CONTENT[7:], "npy version 4.0"),
        (METADATA, CONTENT, "a Parquet file, which starts"),
        (METADATA, FILES[METADATA][:-1], "a whole Parquet file"),
        (METADATA, FILES[METADATA][:-8] + b"\xff\xff\xff\x7fPAR1", "a whole Parquet file"),
        (METADATA, b"PAR1PAR1", "at least 12"),
    ],
)
def test_a_local_file_gets_the_same_checks(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    write_shard(tmp_path / "mine")
    (tmp_path / "mine" / FOLDERS[name] / name).write_bytes(content)
    with pytest.raises(PermanentSourceError) as caught:
        fetch(tmp_path / "mine", tmp_path)
    assert said in str(caught.value) and f"shard 0, {name}" in str(caught.value)
    assert not (tmp_path / "data" / "raw" / name).exists()


def test_a_local_file_is_observed_by_size_and_time(tmp_path: Path) -> None:
    write_shard(tmp_path / "mine")
    settings = settings_for(tmp_path / "mine", data_dir=tmp_path)
    before = observe_shard(settings, 0)["image"]
    assert before.size == SIZE
    os.utime(tmp_path / "mine" / "img_emb" / IMAGE, ns=(1, 1))
    assert observe_shard(settings, 0)["image"].version != before.version


# An object store.


@pytest.fixture
def bucket() -> Iterator[UPath]:
    """A bucket of fsspec's in-memory store that has shard 0."""
    folder = UPath("memory://bucket/shards")
    for name, subfolder in FOLDERS.items():
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        (folder / subfolder / name).write_bytes(FILES[name])
    yield folder
    folder.fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize("name", ["a#b", "a?b", "a#b?c=d"])
def test_a_key_with_a_hash_or_a_question_mark_is_noted_whole(name: str, bucket: UPath, tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(
        f'name = "d"\nnames = ["{name}"]\nimage_file = "img_{{name}}.npy"\nhas_text = false\nhas_metadata = false\n'
        'dimension = 512\n[[sources]]\nurl = "unused"\n'
    )
    (bucket / "img_emb" / f"img_{name}.npy").write_bytes(CONTENT)
    (fetched,) = fetch("memory://bucket/shards", tmp_path, dataset=tmp_path / "d.toml")
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.url == f"memory://bucket/shards/img_emb/img_{name}.npy"
    (bucket / "img_emb" / f"img_{name}.npy").unlink()
    with pytest.raises(PermanentSourceError) as caught:
        fetch("memory://bucket/shards", tmp_path / "other", dataset=tmp_path / "d.toml")
    assert f"img_emb/img_{name}.npy" in str(caught.value)


@pytest.mark.usefixtures("bucket")
def test_a_file_of_an_object_store_is_streamed(tmp_path: Path) -> None:
    fetched = fetch("memory://bucket/shards", tmp_path)
    assert [file.path.read_bytes() for file in fetched] == [FILES[name] for name in THREE]
    assert all(not file.linked and file.bytes_fetched == file.bytes for file in fetched)
    assert fetched[0].url == f"memory://bucket/shards/img_emb/{IMAGE}"


def test_a_part_from_an_object_store_is_completed_if_it_is_the_same_file(bucket: UPath, tmp_path: Path) -> None:
    settings = settings_for("memory://bucket/shards", data_dir=tmp_path)
    seen = observe_shard(settings, 0)["image"]
    raw = tmp_path / "data" / "raw"
    leave_part(raw, IMAGE, CONTENT[:100_000], Origin(seen.url, seen.etag, seen.modified, seen.size))
    assert kinds(fetch("memory://bucket/shards", tmp_path))["image"].bytes_fetched == SIZE - 100_000
    (raw / IMAGE).unlink()
    (bucket / "img_emb" / IMAGE).write_bytes(CONTENT)
    leave_part(raw, IMAGE, b"x" * 100_000, Origin(seen.url, seen.etag, seen.modified, seen.size))
    image = kinds(fetch("memory://bucket/shards", tmp_path))["image"]
    assert (image.bytes_fetched, image.path.read_bytes()) == (SIZE, CONTENT)


@pytest.mark.usefixtures("bucket")
def test_a_part_from_elsewhere_is_completed_when_a_sha256_will_prove_it(tmp_path: Path) -> None:
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text(f"{SHA256}  {IMAGE}\n")
    leave_part(tmp_path / "data" / "raw", IMAGE, CONTENT[:100_000], Origin("http://x/y", None, None, SIZE))
    image = kinds(fetch("memory://bucket/shards", tmp_path, manifest=manifest, manifest_gaps=True))["image"]
    assert (image.bytes_fetched, image.path.read_bytes()) == (SIZE - 100_000, CONTENT)


def test_an_object_store_gets_the_same_checks(bucket: UPath, tmp_path: Path) -> None:
    (bucket / "img_emb" / IMAGE).write_bytes(CONTENT[:-1])
    with pytest.raises(SourceError, match="as its header says"):
        fetch("memory://bucket/shards", tmp_path)
    (bucket / "img_emb" / IMAGE).unlink()
    with pytest.raises(PermanentSourceError, match="FileNotFoundError"):
        fetch("memory://bucket/shards", tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    image = write_shard(tmp_path / "source") / "img_emb" / IMAGE
    image.unlink()
    if kind == "pipe":
        os.mkfifo(image)
    elif kind == "folder":
        image.mkdir()
    else:
        image.symlink_to("/dev/zero")
    error = failure(tmp_path / "source", tmp_path)
    assert isinstance(error, PermanentSourceError) and f"{image}: a folder, a pipe or a device" in str(error)


def test_a_kind_of_url_that_nobody_knows_is_permanent(tmp_path: Path) -> None:
    error = failure("nowhere://bucket/shards", tmp_path)
    assert isinstance(error, PermanentSourceError) and "nowhere" in str(error)


@pytest.fixture
def _s3(server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes s3fs ask the tests' server, which takes the first part of a path for the bucket."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is the optional package of laion_assets[s3]")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.base().rpartition("/")[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretpass")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("_s3")
def test_s3_is_streamed_and_resumed_by_etag(server: MisbehavingServer, tmp_path: Path) -> None:
    seen = observe_shard(settings_for("s3://well-behaved/shards", data_dir=tmp_path), 0)["image"]
    assert seen.size == SIZE and seen.etag and seen.url == f"s3://well-behaved/shards/img_emb/{IMAGE}"
    leave_part(tmp_path / "data" / "raw", IMAGE, CONTENT[:100_000], Origin(seen.url, seen.etag, seen.modified, SIZE))
    server.requests.clear()
    fetched = fetch("s3://well-behaved/shards", tmp_path)
    assert [file.path.read_bytes() for file in fetched] == [FILES[name] for name in THREE]
    assert kinds(fetched)["image"].bytes_fetched == server.sent(IMAGE) == SIZE - 100_000


@pytest.mark.usefixtures("_s3")
def test_a_missing_object_of_s3_is_permanent(server: MisbehavingServer, tmp_path: Path) -> None:
    del server.files[IMAGE]
    try:
        error = failure("s3://well-behaved/shards", tmp_path)
    finally:
        server.files[IMAGE] = CONTENT
    assert isinstance(error, PermanentSourceError) and "s3://well-behaved" in str(error)
