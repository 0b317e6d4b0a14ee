"""Tests of the lock file: a shard keeps its file, changed files are named, and nothing changes until it is asked to."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from laion_assets.dataset import load_dataset
from laion_assets.errors import DatasetError, LaionError, PermanentSourceError, SettingsError, StoreError
from laion_assets.listing import lock_path, read_listing
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.observe import observe_shard
from laion_assets.terminal.describe import show_description, show_listing
from laion_assets.terminal.listing import listing_is_as_locked
from laion_assets_tests.bucket import s3_server, upload
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server

NAMES = ("a/7c00", "a/91ff", "b/0a1b")
TOML = """
name = "pairs"
image_file = "{name}.npz"
image_array = "img"
metadata_file = "{name}.parquet"
has_text = false
dimension = 8
[defaults]
NSFW = ""
similarity = nan
[[sources]]
url = "files"
folders = { image = "", metadata = "" }
"""


def write_pair(folder: Path, name: str, seed: int) -> None:
    """Writes an .npz file and its metadata."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).standard_normal((20, 8))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    np.savez(folder / f"{name}.npz", img=vectors)
    columns = {"url": [f"u{seed}-{row}" for row in range(20)], "caption": ["t"] * 20}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A description whose shards are known only from a listing, and its files."""
    for seed, name in enumerate(NAMES):
        write_pair(tmp_path / "files", name, seed)
    (tmp_path / "files" / "readme.txt").write_text("no shard")
    (tmp_path / "files" / "a" / "alone.npz").write_bytes(b"PK")
    (tmp_path / "pairs.toml").write_text(TOML)
    return tmp_path / "pairs.toml"


def lock(toml: Path, *, check: bool = False, source: str | None = None, digests: bool = False) -> tuple[bool, str]:
    """Locks or checks the files; returns whether nothing changed, and the printed text."""
    said = io.StringIO()
    same = show_listing(toml, Console(file=said, width=400), check=check, source=source, digests=digests)
    return same, said.getvalue()


def test_shards_of_a_pattern_are_those_of_the_listing(toml: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(str(toml))
    assert_one_line(caught.value, "neither shards nor names", "describe", "--lock")
    lock(toml)
    dataset = load_dataset(str(toml))
    assert dataset.names == dict(enumerate(NAMES))
    assert dataset.shards == (0, 1, 2)
    sizes = [dataset.locked(kind, 1) for kind in dataset.file_kinds]
    assert [each.size for each in sizes if each] == [
        (toml.parent / "files" / f"a/91ff.{ending}").stat().st_size for ending in ("npz", "parquet")
    ]
    lines = lock_path(toml).read_text().splitlines()
    assert len([line for line in lines if '"files"' in line]) == 3, "a shard a line, so that versions can be compared"


def test_a_name_keeps_its_number_whatever_comes_and_goes(toml: Path) -> None:
    lock(toml)
    files = toml.parent / "files"
    write_pair(files, "a/0000", 9)
    (files / "a/91ff.npz").unlink()
    same, said = lock(toml, check=True)
    assert not same
    assert said.splitlines() == [
        "gone: shard 1 (a/91ff)",
        "new: shard 3 (a/0000)",
        "2 changes since pairs.lock.json was written",
    ]
    assert load_dataset(str(toml)).names == dict(enumerate(NAMES)), "a check takes nothing over"
    lock(toml)
    assert load_dataset(str(toml)).names == {0: "a/7c00", 2: "b/0a1b", 3: "a/0000"}
    write_pair(files, "a/0001", 10)
    write_pair(files, "a/91ff", 11)
    lock(toml)
    assert load_dataset(str(toml)).names == {0: "a/7c00", 1: "a/91ff", 2: "b/0a1b", 3: "a/0000", 4: "a/0001"}
    assert lock(toml, check=True) == (True, "nothing has changed\n")


def test_a_name_whose_files_are_refused_for_a_while_keeps_its_number(toml: Path) -> None:
    """The server's index pages list the files all the time."""
    refused: set[str] = set()

    class Refusing(SimpleHTTPRequestHandler):
        def send_head(self) -> io.BytesIO | BinaryIO | None:
            if self.path in refused:
                self.send_error(403)
                return None
            return super().send_head()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    handler = functools.partial(Refusing, directory=str(toml.parent / "files"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}"
        lock(toml, source=source)
        refused |= {"/a/91ff.npz", "/b/0a1b.npz"}
        write_pair(toml.parent / "files", "c/0000", 9)
        lock(toml, source=source)
        assert load_dataset(str(toml)).names == {0: "a/7c00", 3: "c/0000"}
        refused.clear()
        lock(toml, source=source)
        server.shutdown()
    assert load_dataset(str(toml)).names == {**dict(enumerate(NAMES)), 3: "c/0000"}


def test_a_description_of_a_folder_is_written_with_its_lock_file(toml: Path) -> None:
    output = toml.parent / "described.toml"
    (toml.parent / "files" / "a" / "alone.npz").unlink()
    show_description(str(toml.parent / "files"), output, None, Console(file=io.StringIO()), lock=True)
    assert "names = [" not in output.read_text()
    assert load_dataset(str(output)).names == dict(enumerate(NAMES))
    with pytest.raises(StoreError, match="a file of that name"):
        show_description(str(toml.parent / "files"), output, None, Console(file=io.StringIO()), lock=True)
    with pytest.raises(SettingsError, match="no --output"):
        show_description(str(toml.parent / "files"), None, None, Console(file=io.StringIO()), lock=True)


def test_numbers_of_a_pattern_are_found_with_holes_and_cut_files_with_their_shares(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    table = pa.table({"url": ["u"] * 40, "caption": ["t"] * 40, "emb": pa.array([[1.0] * 8] * 40)})
    for file in (1, 2, 4):
        pq.write_table(table, tmp_path / "files" / f"part_{file:02d}_of_04.parquet", row_group_size=10)
    pq.write_table(table, tmp_path / "files" / "part_3_of_04.parquet")
    pattern = "part_{file}_of_04.parquet"
    text = f"""
name = "cut"
version = 1
digits = 2
shards_per_file = 2
first_file = 1
image_file = "{pattern}"
metadata_file = "{pattern}"
image_array = "emb"
has_text = false
dimension = 8
[[sources]]
url = "files"
folders = {{ metadata = "" }}
"""
    toml = tmp_path / "cut.toml"
    toml.write_text(text)
    lock(toml)
    dataset = load_dataset(str(toml))
    assert dataset.shards == (0, 1, 2, 3, 6, 7)
    assert dataset.locked("metadata", 6) == dataset.locked("metadata", 7)


@pytest.fixture
def server(toml: Path) -> Iterator[MisbehavingServer]:
    files = toml.parent / "files"
    content = {path.relative_to(files).as_posix(): path.read_bytes() for path in files.rglob("*.*") if path.is_file()}
    with misbehaving_server(content) as server:
        yield server


def served(toml: Path, server: MisbehavingServer) -> Path:
    """Writes a description that lists its names and has this server as its source, and locks it."""
    named = "names = [" + ", ".join(f'"{name}"' for name in NAMES) + "]\n"
    toml.write_text(named + TOML.replace('url = "files"', f'url = "{server.base()}"'))
    lock(toml)
    return toml


def change(server: MisbehavingServer, name: str) -> None:
    """Replaces a file by another one of the same size and name."""
    content = bytearray(server.files[name])
    content[len(content) // 2] ^= 1
    server.files[name] = bytes(content)


def test_another_file_under_the_same_name_is_refused_and_marks_nothing_stale(
    toml: Path, server: MisbehavingServer
) -> None:
    toml = served(toml, server)
    settings = settings_for(data_dir=toml.parent / "data", dataset=toml)
    before = observe_shard(settings, 1)
    change(server, "a/91ff.npz")
    log: list[str] = []
    assert observe_shard(settings, 1, log=log.append) == before, "what is not taken makes nothing stale"
    assert any("a/91ff.npz" in line and "lock file has" in line for line in log)
    server.requests.clear()
    with pytest.raises(PermanentSourceError) as caught:
        fetch_shard(settings, 1, toml.parent / "raw", limits=QUICK)
    assert_one_line(caught.value, "a%2F91ff.npz", "as the lock file says", "--lock --check")
    assert not [each for each in server.requests if each.method == "GET" and each.path.endswith(".npz")]
    assert not [*(toml.parent / "raw").glob("*.npz")]
    (finding,) = listing_is_as_locked(settings)
    assert finding.passed is False
    assert "changed: shard 1 (a/91ff), 91ff.npz" in finding.seen
    lock(toml)
    (finding,) = listing_is_as_locked(settings_for(data_dir=toml.parent / "data", dataset=toml))
    assert (finding.passed, finding.seen) == (True, "3 shards as in the lock file")
    assert len(fetch_shard(settings_for(data_dir=toml.parent / "data", dataset=toml), 1, toml.parent / "raw")) == 2


def test_a_file_that_is_here_stays_while_it_is_the_locked_one(toml: Path, server: MisbehavingServer) -> None:
    toml = served(toml, server)
    raw = toml.parent / "raw"
    fetch_shard(settings_for(data_dir=toml.parent / "data", dataset=toml), 1, raw, limits=QUICK)
    change(server, "a/91ff.npz")
    settings = settings_for(data_dir=toml.parent / "data", dataset=toml)
    assert {file.tries for file in fetch_shard(settings, 1, raw, limits=QUICK)} == {0}
    lock(toml)
    settings = settings_for(data_dir=toml.parent / "data", dataset=toml)
    log: list[str] = []
    fetched = fetch_shard(settings, 1, raw, limits=QUICK, log=log.append)
    assert {file.kind: file.tries for file in fetched} == {"image": 1, "metadata": 0}
    assert (raw / "a%2F91ff.npz").read_bytes() == server.files["a/91ff.npz"]


def test_a_mirror_that_has_the_locked_file_gives_it(toml: Path, server: MisbehavingServer) -> None:
    toml = served(toml, server)
    was = server.files["a/91ff.npz"]
    mirror = toml.parent / "files"
    change(server, "a/91ff.npz")
    settings = settings_for(server.base(), mirror, data_dir=toml.parent / "data", dataset=toml)
    fetch_shard(settings, 1, toml.parent / "raw", limits=QUICK)
    assert (toml.parent / "raw" / "a%2F91ff.npz").read_bytes() == was


def test_digests_are_verified_at_mirrors_and_kept(toml: Path, server: MisbehavingServer) -> None:
    lock(toml, digests=True)
    lock(toml)
    listing = read_listing(toml)
    assert listing is not None
    assert {file.sha256 is None for shard in listing.shards.values() for file in shard.files.values()} == {False}
    change(server, "a/91ff.npz")
    settings = settings_for(server.base(), data_dir=toml.parent / "data", dataset=toml)
    with pytest.raises(LaionError, match="SHA-256"):
        fetch_shard(settings, 1, toml.parent / "raw", limits=QUICK)


def test_a_file_that_is_gone_is_named(toml: Path, server: MisbehavingServer) -> None:
    toml = served(toml, server)
    del server.files["b/0a1b.parquet"]
    assert lock(toml, check=True)[1].splitlines()[0] == "gone: shard 2 (b/0a1b)"
    lock(toml)
    with pytest.raises(DatasetError, match="no image file of shard 2 in its lock file"):
        fetch_shard(settings_for(data_dir=toml.parent / "data", dataset=toml), 2, toml.parent / "raw", limits=QUICK)
    server.files.clear()
    with pytest.raises(PermanentSourceError, match="404"):
        lock(toml, check=True)


def test_a_bucket_is_listed_at_once(toml: Path) -> None:
    with s3_server() as server:
        upload(toml.parent / "files", "s3://laion/pairs")
        toml.write_text(TOML.replace('url = "files"', 'url = "s3://laion/pairs"'))
        server.requests.clear()
        lock(toml)
        assert len(server.requests) <= 4, "names and sizes come with the listing"
        dataset = load_dataset(str(toml))
        locked = dataset.locked("image", 0)
        assert locked is not None
        assert re.fullmatch(r'"[0-9a-f]{32}"', locked.etag or "")
        settings = settings_for(data_dir=toml.parent / "data", dataset=toml)
        assert len(fetch_shard(settings, 0, toml.parent / "raw", limits=QUICK)) == 2
        write_pair(toml.parent / "files", NAMES[0], 77)
        upload(toml.parent / "files", "s3://laion/pairs")
        with pytest.raises(PermanentSourceError, match="as the lock file says"):
            fetch_shard(settings, 0, toml.parent / "other", limits=QUICK)


BAD = {
    "no JSON": ("{", "Invalid JSON"),
    "another version": ('{"version": 2, "source": "x", "shards": {"0": {"files": {}}}}', "version"),
    "no shards": ('{"version": 1, "source": "x", "shards": {}}', "shards"),
    "an unknown field": ('{"version": 1, "source": "x", "shards": {"0": {"files": {}}}, "y": 1}', "y"),
    "a digest of letters": (
        '{"version": 1, "source": "x", "shards": {"0": {"files": {"image": {"url": "u", "sha256": "zz"}}}}}',
        "sha256",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_lock_file_that_is_none_is_refused_in_one_line(name: str, toml: Path) -> None:
    lock_path(toml).write_text(BAD[name][0])
    with pytest.raises(DatasetError) as caught:
        load_dataset(str(toml))
    assert_one_line(caught.value, "pairs.lock.json", BAD[name][1], "--lock")


def test_names_that_contradict_the_lock_file_are_refused(toml: Path) -> None:
    lock(toml)
    toml.write_text(f'names = ["{NAMES[1]}", "{NAMES[0]}"]\n' + TOML)
    with pytest.raises(DatasetError) as caught:
        load_dataset(str(toml))
    assert_one_line(caught.value, "shard 0", "as its lock file says")


def test_a_local_file_with_another_date_is_another(toml: Path) -> None:
    lock(toml)
    os.utime(toml.parent / "files" / "a/7c00.npz", ns=(1, 1))
    assert lock(toml, check=True)[1].startswith("changed: shard 0 (a/7c00), 7c00.npz: ")


def test_the_lock_file_shows_no_secret(toml: Path, server: MisbehavingServer) -> None:
    base = server.base().replace("http://", "http://me:secret@")
    toml.write_text(f'names = ["{NAMES[0]}"]\n' + TOML.replace('url = "files"', f'url = "{base}?token=secret"'))
    lock(toml)
    text = lock_path(toml).read_text()
    assert "secret" not in text
    assert json.loads(text)["shards"]["0"]["name"] == NAMES[0]
