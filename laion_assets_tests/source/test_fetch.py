"""Tests of fetching a shard's three files: in parallel, from the first source with them, each once and reported."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from laion_assets.errors import DatasetError, PermanentSourceError, SourceError
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import FetchedFile, fetch_shard
from laion_assets.source.observe import observe_shard
from laion_assets.source.partial import Origin
from laion_assets.source.places import file_url
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import (
    CONTENT,
    FILES,
    IMAGE,
    METADATA,
    SIZE,
    TEXT,
    kinds,
    leave_part,
    npy_bytes,
    shard_files,
)

THREE = (IMAGE, TEXT, METADATA)
NOTES = [f".{name}.origin.json" for name in THREE]
"""The notes that record the source of each file."""
TOTAL = sum(len(FILES[name]) for name in THREE)

DATASET = """
name = "small"
shards = 12
digits = 2
dimension = 512
default_rows = 300
rows = { 7 = 100 }
[[sources]]
url = "BASE"
folders = { image = "images", text = "texts", metadata = "metadata" }
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "data" / "raw"


def names(folder: Path) -> list[str]:
    """Returns the names of a folder's files."""
    return sorted(path.name for path in folder.iterdir())


def fetch(source: str, raw: Path, **fields: Any) -> list[FetchedFile]:
    """Fetches shard 0 from one source."""
    return fetch_shard(settings_for(source, data_dir=raw.parent, **fields), 0, raw, limits=QUICK)


def test_the_files_of_a_shard_arrive_in_the_order_of_their_kinds(server: MisbehavingServer, raw: Path) -> None:
    fetched = fetch(server.base(), raw)
    assert [file.kind for file in fetched] == ["image", "text", "metadata"]
    assert [file.path for file in fetched] == [raw / name for name in THREE]
    assert [file.path.read_bytes() for file in fetched] == [FILES[name] for name in THREE]
    assert names(raw) == sorted([".0.lock", *THREE, *NOTES])


@pytest.mark.parametrize(("connections", "at_once"), [(1, 1), (2, 2), (3, 3), (16, 3)])
def test_so_many_files_come_side_by_side_as_there_are_connections(
    server: MisbehavingServer, raw: Path, connections: int, at_once: int
) -> None:
    fetch(server.base("dribble=1000000"), raw, http_connections=connections)
    assert server.most_at_once == at_once


def test_a_file_that_stands_complete_is_not_fetched_again(server: MisbehavingServer, raw: Path) -> None:
    fetch(server.base(), raw)
    (raw / TEXT).unlink()
    server.requests.clear()
    again = kinds(fetch(server.base(), raw))
    asked = [request.path for request in server.requests if request.method == "GET"]
    assert asked == [f"/well-behaved/text_emb/{TEXT}"]
    assert (again["image"].tries, again["image"].bytes_fetched, again["image"].bytes) == (0, 0, SIZE)
    assert again["image"].url == str(raw / IMAGE)


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"x", b"<html>"])
def test_a_file_that_stands_damaged_is_fetched_again(server: MisbehavingServer, raw: Path, damaged: bytes) -> None:
    fetch(server.base(), raw)
    (raw / IMAGE).write_bytes(damaged)
    assert kinds(fetch(server.base(), raw))["image"].bytes_fetched == SIZE
    assert (raw / IMAGE).read_bytes() == CONTENT


def test_a_leftover_beside_a_file_that_stands_goes_away(server: MisbehavingServer, raw: Path) -> None:
    fetch(server.base(), raw)
    leave_part(raw, IMAGE, b"x" * 100, Origin("http://x/y", '"e"', None, SIZE))
    fetch(server.base(), raw)
    assert names(raw) == sorted([".0.lock", *THREE, *NOTES])


# A remote file that changes while its local copy stays.


@pytest.mark.parametrize(
    "changed", [npy_bytes(seed=9), npy_bytes(350, seed=9)], ids=["of the same size", "of another size"]
)
def test_a_file_that_changed_at_its_source_is_fetched_again_and_the_others_are_not(
    changed: bytes, server: MisbehavingServer, raw: Path
) -> None:
    fetch(server.base(), raw)
    server.files[IMAGE] = changed
    try:
        for expected in ([IMAGE], []):
            server.requests.clear()
            fetched = kinds(fetch(server.base(), raw))
            gets = [request.path.rpartition("/")[2] for request in server.requests if request.method == "GET"]
            assert gets == expected
            assert (raw / IMAGE).read_bytes() == changed
            assert (fetched["text"].bytes_fetched, fetched["metadata"].bytes_fetched) == (0, 0)
    finally:
        server.files[IMAGE] = CONTENT


@pytest.mark.parametrize("validator", ["etag", "weak", "date", "none"])
def test_a_file_that_did_not_change_stands_whatever_its_source_says_of_versions(
    validator: str, server: MisbehavingServer, raw: Path
) -> None:
    source = server.base(f"validator={validator}")
    fetch(source, raw)
    assert [file.tries for file in fetch(source, raw)] == [0, 0, 0]


def test_while_no_source_answers_what_stands_is_used(raw: Path) -> None:
    with misbehaving_server(FILES) as server:
        settings = settings_for(server.base(), data_dir=raw.parent)
        fetch_shard(settings, 0, raw, limits=QUICK)
    log: list[str] = []
    again = fetch_shard(settings, 0, raw, limits=QUICK, log=log.append)
    assert [file.tries for file in again] == [0, 0, 0]
    assert sum("the file of the store is used, since it cannot be compared" in line for line in log) == 3


def test_a_mirror_with_an_etag_of_its_own_has_the_same_file(server: MisbehavingServer, raw: Path) -> None:
    fetch(server.base(), raw)
    both = settings_for(server.base("validator=date"), server.base(), data_dir=raw.parent)
    assert [file.tries for file in fetch_shard(both, 0, raw, limits=QUICK)] == [0, 0, 0]


def test_where_files_are_removed_nothing_of_them_stays(server: MisbehavingServer, raw: Path) -> None:
    settings = settings_for(server.base(), data_dir=raw.parent)
    fetch(server.base(), raw)
    assert ShardStore(settings.data_dir, settings.dataset).remove_raw(0) == TOTAL
    assert names(raw) == [".0.lock"]


def test_what_a_killed_run_left_half_done_goes_when_the_file_comes_from_elsewhere(
    server: MisbehavingServer, raw: Path, tmp_path: Path
) -> None:
    """The run was killed while it linked one file into its place, and while it recorded the source of another."""
    leave_part(raw, IMAGE, b"x" * 100, Origin("http://x/y", '"e"', None, SIZE))
    (raw / f"{IMAGE}.part.json.new").write_text('{"url": "htt')
    (raw / f".{TEXT}.link").write_bytes(b"old")
    (raw / f".{METADATA}.origin.json.new").write_text('{"url": "htt')
    (tmp_path / "mine").mkdir()
    for name in THREE:
        (tmp_path / "mine" / name).write_bytes(FILES[name])
    assert all(file.linked for file in fetch(str(tmp_path / "mine"), raw))
    assert names(raw) == sorted([".0.lock", *THREE, *NOTES])


# Layouts, mirrors, and facts that the dataset states.


def test_a_404_moves_on_to_the_next_layout_and_mirror(server: MisbehavingServer, raw: Path) -> None:
    flat = MisbehavingServer.base
    with misbehaving_server(FILES) as other:
        settings = settings_for(server.base("status=404"), other.base("times=1"), data_dir=raw.parent)
        fetched = fetch_shard(settings, 0, raw, limits=QUICK)
        assert kinds(fetched)["image"].url == f"{flat(other, 'times=1')}/img_emb/{IMAGE}"
    asked = [request.path for request in server.asked(IMAGE)]
    assert asked == [f"/status=404/img_emb/{IMAGE}", f"/status=404/{IMAGE}"]
    assert fetched[0].tries == 1, "the source that has every file is tried first"


def test_a_shard_nowhere_to_be_found_names_every_url(server: MisbehavingServer, raw: Path) -> None:
    with pytest.raises(PermanentSourceError) as caught:
        fetch(server.base("status=404"), raw, http_connections=1)
    for path in (f"img_emb/{IMAGE}", IMAGE):
        assert f"{server.base('status=404')}/{path}: 404 Not Found (tries: 1)" in str(caught.value)
    assert "shard 0" in str(caught.value) and "LAION_SOURCE" in str(caught.value)


@pytest.fixture
def dataset(tmp_path: Path, server: MisbehavingServer) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(DATASET.replace("BASE", server.base()))
    return path


def test_the_datasets_own_folders_and_names_are_used(server: MisbehavingServer, raw: Path, dataset: Path) -> None:
    files = shard_files(rows=100)
    renamed = {name.replace("_0.", "_07."): content for name, content in files.items()}
    server.files.update(renamed)
    fetched = fetch_shard(settings_for(data_dir=raw.parent, dataset=dataset), 7, raw, limits=QUICK)
    assert [request.path for request in server.asked("img_emb_07.npy")] == ["/well-behaved/images/img_emb_07.npy"]
    assert fetched[0].path.name == "img_emb_07.npy"
    again = fetch_shard(settings_for(server.base("times=1"), data_dir=raw.parent, dataset=dataset), 7, raw)
    assert [file.tries for file in again] == [0, 0, 0]


def test_rows_that_the_dataset_knows_are_enforced_by_the_first_bytes(
    server: MisbehavingServer, raw: Path, dataset: Path
) -> None:
    server.files.update({name.replace("_0.", "_03."): content for name, content in shard_files(rows=299).items()})
    with pytest.raises(SourceError, match=r"shape \(299, 512\) in its header, expected 300 rows") as caught:
        fetch_shard(settings_for(data_dir=raw.parent, dataset=dataset), 3, raw, limits=QUICK)
    assert "shard 3, " in str(caught.value)
    assert not list(raw.glob("*.npy*"))


@pytest.mark.parametrize(("dtype", "header"), [("<f2", 96), ("<f2", 128), ("<f2", 4096), ("<f4", 128), ("<f8", 512)])
def test_rows_are_read_in_the_header_whatever_its_length_and_the_files_dtype(
    server: MisbehavingServer, raw: Path, dataset: Path, dtype: str, header: int
) -> None:
    """Other programs pad headers differently, and float32 files are accepted where the dataset says float16."""
    server.files.update({name.replace("_0.", "_03."): content for name, content in shard_files(rows=300).items()})
    text = repr({"descr": dtype, "fortran_order": False, "shape": (300, 512)}).encode().ljust(header - 11) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + np.ones((300, 512), dtype).tobytes()
    server.files |= {"img_emb_03.npy": content, "text_emb_03.npy": content}
    fetched = fetch_shard(settings_for(data_dir=raw.parent, dataset=dataset), 3, raw, limits=QUICK)
    assert [file.bytes for file in fetched][:2] == [len(content)] * 2


@pytest.mark.parametrize("shard", [-1, 4, 100])
def test_a_shard_that_is_none_is_said(raw: Path, shard: int) -> None:
    settings = settings_for("http://127.0.0.1:9", data_dir=raw.parent)
    for call in (lambda: fetch_shard(settings, shard, raw), lambda: observe_shard(settings, shard)):
        with pytest.raises(DatasetError):
            call()


def test_one_file_that_cannot_be_had_ends_the_others_which_keep_their_parts(
    server: MisbehavingServer, raw: Path
) -> None:
    del server.files[METADATA]
    try:
        with pytest.raises(PermanentSourceError, match=f"shard 0, {METADATA}"):
            fetch(server.base("dribble=50000&times=9"), raw)
    finally:
        server.files[METADATA] = FILES[METADATA]
    assert not (raw / IMAGE).exists()
    server.calm = True
    came = {name: (raw / f"{name}.part").stat().st_size for name in (IMAGE, TEXT) if (raw / f"{name}.part").exists()}
    fetched = kinds(fetch(server.base("dribble=50000&times=9"), raw))
    assert fetched["image"].bytes_fetched == SIZE - came.get(IMAGE, 0)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://host/a/", "https://host/a/img_emb/b%201.npy"),
        ("https://host", "https://host/img_emb/b%201.npy"),
        ("https://host/a?sig=1&x=/y#z", "https://host/a/img_emb/b%201.npy?sig=1&x=/y"),
    ],
)
def test_the_url_of_a_file_is_below_its_base(base: str, url: str) -> None:
    assert file_url(base, "img_emb", "b 1.npy") == url


# Progress, and observation.


@pytest.mark.parametrize("behaviour", ["well-behaved", "cut=100000", "cut=100000&times=1&validator=none"])
def test_progress_adds_up_to_the_shard(server: MisbehavingServer, raw: Path, behaviour: str) -> None:
    calls: list[tuple[int, int | None]] = []
    settings = settings_for(server.base(behaviour), data_dir=raw.parent)
    for _ in ("fetched", "standing"):
        calls.clear()
        fetch_shard(settings, 0, raw, progress=lambda done, total: calls.append((done, total)), limits=QUICK)
        assert sum(done for done, _ in calls) == TOTAL
        assert calls[-1][1] == TOTAL


def test_a_part_counts_as_done(server: MisbehavingServer, raw: Path) -> None:
    leave_part(raw, IMAGE, CONTENT[:-10], Origin(f"{server.base()}/img_emb/{IMAGE}", None, None, SIZE))
    done: list[int] = []
    fetch_shard(
        settings_for(server.base(), data_dir=raw.parent),
        0,
        raw,
        progress=lambda count, _: done.append(count),
        limits=replace(QUICK, tries=1),
    )
    assert sum(done) == TOTAL


def test_a_shard_is_observed_without_being_fetched(server: MisbehavingServer, raw: Path) -> None:
    seen = observe_shard(settings_for(server.base("status=404"), server.base(), data_dir=raw.parent), 0)
    assert {kind: remote.size for kind, remote in seen.items()} == {
        "image": SIZE,
        "text": SIZE,
        "metadata": len(FILES[METADATA]),
    }
    assert seen["image"].url == f"{server.base()}/img_emb/{IMAGE}"
    assert server.sent() == 0 and not raw.exists()


def test_an_observation_does_not_insist(server: MisbehavingServer, raw: Path) -> None:
    with pytest.raises(SourceError, match="tries: 2"):
        observe_shard(settings_for(server.base("status=503&retry_after=0"), data_dir=raw.parent, http_tries=2), 0)
