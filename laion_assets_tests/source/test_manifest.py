"""Tests of the manifest: the forms that users have are read, and files are checked against it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import SettingsError, SourceError
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.manifest import ManifestEntry, load_manifest
from laion_assets_tests.source.fetching import QUICK, settings_for
from laion_assets_tests.source.misbehaving_server import MisbehavingServer
from laion_assets_tests.source.served_shard import CONTENT, IMAGE, SHA256, SIZE, TEXT, kinds

OTHER = "ab" * 32


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        (f"{SHA256}  {IMAGE}", ManifestEntry(None, SHA256)),
        (f"{SHA256.upper()} *./img_emb/{IMAGE}\r\n", ManifestEntry(None, SHA256)),
        (f"{SHA256}\t{SIZE}\t{IMAGE}", ManifestEntry(SIZE, SHA256)),
        (f"{SHA256},{SIZE},{IMAGE}", ManifestEntry(SIZE, SHA256)),
        (f'{SHA256}, {SIZE}, "img_emb/{IMAGE}"', ManifestEntry(SIZE, SHA256)),
        (f"sha256\tsize\tname\n{SHA256}\t{SIZE}\t{IMAGE}", ManifestEntry(SIZE, SHA256)),
        (f"name,size\n{IMAGE},{SIZE}", ManifestEntry(SIZE, None)),
        (f"\t{SIZE}\t{IMAGE}", ManifestEntry(SIZE, None)),
        (f"\ufeff# made by hand\n\n{IMAGE}\t{SHA256}\n", ManifestEntry(None, SHA256)),
        (f"{SHA256}  {IMAGE}\n{SIZE}\t{IMAGE}", ManifestEntry(SIZE, SHA256)),
        (f"https://host/img_emb/{IMAGE}\t{SIZE}\t{SHA256}\t{IMAGE}", ManifestEntry(SIZE, SHA256)),
    ],
)
def test_forms_that_people_have_are_read(tmp_path: Path, text: str, entry: ManifestEntry) -> None:
    path = tmp_path / "manifest"
    path.write_text(text, encoding="utf-8")
    assert load_manifest(path).entry(IMAGE) == entry


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{SHA256}  a.npy\nwhat is this", "line 2"),
        (f"{SHA256[:-1]}  {IMAGE}", "64 hexadecimal digits"),
        (f"{SHA256}\t{OTHER}\t{IMAGE}", "2 SHA-256"),
        (f"{SHA256}\t{SIZE}", "0 names"),
        (f"{SHA256},{SIZE},{IMAGE}\n{'x' * 140_000}", "line 2: found field larger than field limit"),
        (f"{SHA256}  {IMAGE}\n{OTHER}  ./{IMAGE}", "as an earlier line says"),
    ],
)
def test_a_line_that_is_not_understood_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "manifest"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=said):
        load_manifest(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "manifest"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=str(path)):
        load_manifest(path)


def test_a_file_of_the_manifest_is_held_to_it(server: MisbehavingServer, tmp_path: Path) -> None:
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text(f"{SHA256}  {IMAGE}\n{OTHER}  {TEXT}\n")
    settings = settings_for(server.base(), data_dir=tmp_path, manifest=manifest, manifest_gaps=True)
    with pytest.raises(SourceError, match=f"shard 0, {TEXT}.*expected {OTHER} as the manifest or lock file says"):
        fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)
    assert not (tmp_path / "raw" / TEXT).exists()
    manifest.write_text(f"{SHA256}  {IMAGE}\n")
    assert kinds(fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK))["text"].bytes == SIZE


def test_a_file_that_the_manifest_does_not_name_is_not_fetched(server: MisbehavingServer, tmp_path: Path) -> None:
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text(f"{SHA256}  {IMAGE}\n")
    settings = settings_for(server.base(), data_dir=tmp_path, manifest=manifest)
    with pytest.raises(SettingsError, match=f"no line for {TEXT}.*LAION_MANIFEST_GAPS"):
        fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)
    assert not server.requests


def test_a_standing_file_is_held_to_the_manifest_too(server: MisbehavingServer, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / IMAGE).write_bytes(CONTENT[:-1] + b"x")
    manifest = tmp_path / "SHA256SUMS"
    manifest.write_text(f"{SHA256}  {IMAGE}\n")
    log: list[str] = []
    settings = settings_for(server.base(), data_dir=tmp_path, manifest=manifest, manifest_gaps=True)
    fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK, log=log.append)
    assert (tmp_path / "raw" / IMAGE).read_bytes() == CONTENT
    assert "it is fetched again" in log[0]


def test_a_manifest_may_not_contradict_the_dataset(tmp_path: Path) -> None:
    manifest = tmp_path / "sizes.tsv"
    manifest.write_text("\t1000\timg_emb_0.npy\n")
    settings = settings_for("http://127.0.0.1:9", data_dir=tmp_path, dataset="laion400m", manifest=manifest)
    with pytest.raises(SettingsError, match=r"1000 bytes, expected at least 1024458752"):
        fetch_shard(settings, 0, tmp_path / "raw", limits=QUICK)


NAMED = """name = "d"
names = ["a/0", "b/0", "0"]
image_file = "{name}.npz"
metadata_file = "{name}.parquet"
image_array = "e"
dimension = 8
has_text = false
[[sources]]
url = "files"
folders = { image = "", text = "", metadata = "" }
"""


@pytest.mark.parametrize("root", ["", "./", "https://host.example/set/"])
def test_files_in_folders_are_held_to_the_line_of_their_path(root: str, tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(NAMED)
    names = ["a/0", "b/0", "0"]
    lines, content = [], {}
    for number, name in enumerate(names):
        (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        rows = {"url": [name], "caption": [name], "NSFW": [""], "similarity": [float(number)]}
        np.savez(tmp_path / "files" / f"{name}.npz", e=np.full((1, 8), number))
        pq.write_table(pa.table(rows), tmp_path / "files" / f"{name}.parquet")
        for ending in ("npz", "parquet"):
            content[name] = (tmp_path / "files" / f"{name}.{ending}").read_bytes()
            lines.append(f"{hashlib.sha256(content[name]).hexdigest()}  {root}{name}.{ending}\n")
    (tmp_path / "sums").write_text("".join(lines))
    settings = settings_for(
        tmp_path / "files", data_dir=tmp_path / "data", dataset=tmp_path / "d.toml", manifest=tmp_path / "sums"
    )
    for shard in range(3):
        assert len(fetch_shard(settings, shard, tmp_path / "raw", limits=QUICK)) == 2
    (tmp_path / "files" / "b" / "0.parquet").write_bytes(content["a/0"])
    with pytest.raises(SourceError, match=r"shard 1, b%2F0\.parquet.*SHA-256"):
        fetch_shard(settings, 1, tmp_path / "other", limits=QUICK)
    (tmp_path / "sums").write_text("".join(line for line in lines if "b/0.npz" not in line))
    with pytest.raises(SettingsError, match=r"no line for b/0\.npz"):
        fetch_shard(settings, 1, tmp_path / "other", limits=QUICK)


def test_two_lines_for_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sums").write_text(f"{SHA256}  one/{IMAGE}\n{OTHER}  two/{IMAGE}\n")
    with pytest.raises(SettingsError, match=f"{IMAGE}: two/{IMAGE}.*an earlier line says"):
        load_manifest(tmp_path / "sums").entry(IMAGE)
