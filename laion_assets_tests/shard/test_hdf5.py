"""Tests of vectors in HDF5 files, with or without metadata: merged like .npy files, bad files refused in one line."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from laion_assets.errors import ShardFileError
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merge import merge_shard
from laion_assets.source.failures import WrongFileError
from laion_assets.source.wanted import WantedFile, check_file, check_start
from laion_assets_tests.conftest import Shard, assert_one_line
from laion_assets_tests.shard.test_containers import store_of
from laion_assets_tests.shard.test_merge import assert_equals

FILE = {"image_file": "{shard}.h5", "text_file": "{shard}.h5", "image_array": "emb/img", "text_array": "emb/txt"}
ALONE = {"image_file": "{shard}.h5", "has_text": False, "has_metadata": False}


@pytest.fixture
def shard(sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> Shard:
    """A shard of 250 rows, read in three blocks."""
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 100)
    return sample_shards[2]


def written(path: Path, shard: Shard, images: Any = None, **options: Any) -> None:
    """Writes both sets of vectors into a group; `images`, if given, replaces the shard's images."""
    with h5py.File(path, "w") as file:
        file.create_dataset("emb/img", data=shard.images if images is None else images, **options)
        file.create_dataset("emb/txt", data=shard.texts, **options)


WAYS: dict[str, dict[str, Any]] = {
    "one after the other": {},
    "gzip": {"chunks": (33, 512), "compression": "gzip"},
    "lzf in pieces of columns": {"chunks": (70, 100), "compression": "lzf", "shuffle": True},
    "checksums": {"chunks": (250, 512), "fletcher32": True},
    "float32": {"dtype": "<f4"},
    "float64, the other end first": {"dtype": ">f8"},
}


@pytest.mark.parametrize("name", WAYS)
def test_datasets_of_an_hdf5_file_are_merged_as_npy_files_are(name: str, shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **FILE)
    files = store.raw_files(1)
    written(files.image, shard, **WAYS[name])
    pq.write_table(shard.table, files.metadata)
    for kind, path in files.paths().items():
        check_file(WantedFile(1, kind, path.name), path, "here")
    assert_equals(pq.read_table(merge_shard(store, 1, max_bad_fraction=0).path), shard, 1)


def hard(file: h5py.File) -> None:
    """Gives the images a second name that sorts after the first, and the texts a second name that sorts before it."""
    file["zzz/img"], file["aaa"] = file["emb/img"], file["emb/txt"]


def soft(file: h5py.File) -> None:
    """Adds soft links: absolute, relative, to a group, and to a link."""
    file["by"] = h5py.SoftLink("/emb")
    file["aaa"] = h5py.SoftLink("by/txt")
    file["zzz/img"] = h5py.SoftLink("/by/./img")


@pytest.mark.parametrize("link", [hard, soft])
def test_names_that_are_links_within_the_file_are_followed(
    link: Callable[[h5py.File], None], shard: Shard, tmp_path: Path
) -> None:
    store = store_of(tmp_path, **{**FILE, "image_array": "zzz/img", "text_array": "/aaa"})
    files = store.raw_files(1)
    written(files.image, shard)
    with h5py.File(files.image, "a") as file:
        link(file)
    pq.write_table(shard.table, files.metadata)
    assert_equals(pq.read_table(merge_shard(store, 1, max_bad_fraction=0).path), shard, 1)


def test_links_in_a_circle_or_to_another_file_are_refused(shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **{**FILE, "image_array": "a"})
    files = store.raw_files(1)
    pq.write_table(shard.table, files.metadata)
    for target in (
        h5py.SoftLink("/b"),
        h5py.SoftLink("/other/emb/img"),
        h5py.SoftLink("/nowhere"),
        h5py.SoftLink("/a"),
    ):
        written(files.image, shard)
        written(tmp_path / "other.h5", shard)
        with h5py.File(files.image, "a") as file:
            file["a"], file["b"] = target, h5py.SoftLink("/a")
            file["other"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        with pytest.raises(ShardFileError) as caught:
            merge_shard(store, 1, max_bad_fraction=0)
        assert_one_line(caught.value, "expected one at a")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_vectors_alone_are_merged_with_the_defaults(libver: str, shard: Shard, tmp_path: Path) -> None:
    defaults = {"url": "", "caption": "none", "NSFW": "", "similarity": float("nan")}
    store = store_of(tmp_path, **ALONE, defaults=defaults)
    files = store.raw_files(0)
    with h5py.File(files.image, "w", libver=libver) as file:
        file["emb"] = shard.images
    assert [*files.paths()] == ["image"]
    check_file(WantedFile(0, "image", files.image.name), files.image, "here")
    merged = merge_shard(store, 0, max_bad_fraction=0)
    table = pq.read_table(merged.path)
    assert (merged.rows, table["caption"].unique().to_pylist()) == (250, ["none"])
    assert np.array_equal(np.stack(table["image_embedding"].to_numpy()), shard.images.astype(np.float32))


def test_vectors_alone_need_a_default_for_each_column(shard: Shard, tmp_path: Path) -> None:
    store = store_of(tmp_path, **ALONE)
    with h5py.File(store.raw_files(0).image, "w") as file:
        file["emb"] = shard.images
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=0)
    assert_one_line(caught.value, "shard 0", "no default for url, caption", "[defaults]")


def test_without_h5py_it_is_said_what_to_install(shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, **FILE)
    written(store.raw_files(0).image, shard)
    there = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return there(name, *rest)

    files = store.raw_files(0)
    pq.write_table(shard.table, files.metadata)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=0)
    assert_one_line(caught.value, "install laion_assets[hdf5]")


def linked(path: Path, shard: Shard) -> None:
    """Writes a file whose images are a link to another file."""
    written(path.with_name("other.h5"), shard)
    with h5py.File(path, "w") as file:
        file["emb/txt"] = shard.texts
        file["emb/img"] = h5py.ExternalLink("other.h5", "emb/img")


def virtual(path: Path, shard: Shard) -> None:
    """Writes a file whose images are a virtual dataset of another file."""
    written(path.with_name("other.h5"), shard)
    layout = h5py.VirtualLayout(shard.images.shape, shard.images.dtype)
    layout[:] = h5py.VirtualSource(path.with_name("other.h5"), "emb/img", shard.images.shape)
    with h5py.File(path, "w") as file:
        file["emb/txt"] = shard.texts
        file.create_virtual_dataset("emb/img", layout)


def outside(path: Path, shard: Shard) -> None:
    """Writes a file whose images are raw bytes in another file."""
    path.with_name("values").write_bytes(shard.images.tobytes())
    with h5py.File(path, "w") as file:
        file["emb/txt"] = shard.texts
        file.create_dataset(
            "emb/img", shard.images.shape, shard.images.dtype, external=[(str(path.with_name("values")), 0, 1 << 30)]
        )


def spoilt(path: Path, shard: Shard, at: float, **options: Any) -> None:
    """Writes a file with some bytes overwritten."""
    written(path, shard, **options)
    content = bytearray(path.read_bytes())
    first = int(len(content) * at)
    content[first : first + 40] = b"\xff" * 40
    path.write_bytes(content)


def put(path: Path, content: bytes) -> None:
    """Writes a file with these bytes."""
    path.write_bytes(content)


def half(path: Path, shard: Shard) -> None:
    """Writes the first half of a file."""
    written(path, shard)
    put(path, path.read_bytes()[: path.stat().st_size // 2])


PACKED = {"chunks": (50, 512), "compression": "gzip"}
FIELDS = np.zeros(250, np.dtype([("a", "<f2"), ("b", "<f2")]))
BAD: dict[str, tuple[Callable[[Path, Shard], None], str]] = {
    "no such dataset": (lambda p, s: h5py.File(p, "w").create_dataset("x", data=s.images).file.close(), "datasets: x"),
    "nothing in it": (lambda p, _: h5py.File(p, "w").close(), "datasets: none"),
    "a group of the name": (lambda p, _: h5py.File(p, "w").create_group("emb/img").file.close(), "datasets: none"),
    "another dimension": (lambda p, s: written(p, s, s.images[:, :9]), "shape (250, 9)"),
    "one dimension": (lambda p, s: written(p, s, s.images[0]), "1 dimensions"),
    "three dimensions": (lambda p, s: written(p, s, s.images[None]), "3 dimensions"),
    "integers": (lambda p, s: written(p, s, s.images.astype(int)), "dtype <i8"),
    "text": (lambda p, s: written(p, s, np.full((250, 512), b"x")), "dtype |S1"),
    "fields": (lambda p, s: written(p, s, FIELDS), "dtype of several fields"),
    "no shape": (lambda p, s: written(p, s, h5py.Empty("f2")), "an empty dataset"),
    "fewer rows": (lambda p, s: written(p, s, s.images[:9]), "9 rows in emb/img of 0.h5"),
    "a link to another file": (linked, "datasets: emb/txt"),
    "a virtual dataset": (virtual, "values in other files"),
    "values in another file": (outside, "values in other files"),
    "a spoilt chunk": (lambda p, s: spoilt(p, s, 0.7, **PACKED), "expected a sound HDF5 file"),
    "a spoilt beginning": (lambda p, s: spoilt(p, s, 0.0), "expected a sound HDF5 file"),
    "an npy file": (lambda p, s: np.save(p.open("wb"), s.images), "expected a sound HDF5 file"),
    "no bytes": (lambda p, _: put(p, b""), "expected a sound HDF5 file"),
    "half of it": (
        half,
        "expected a sound HDF5 file",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_without_the_vectors_is_refused_in_one_line(name: str, shard: Shard, tmp_path: Path) -> None:
    make, said = BAD[name]
    store = store_of(tmp_path, **FILE)
    files = store.raw_files(0)
    make(files.image, shard)
    pq.write_table(shard.table, files.metadata)
    with pytest.raises(ShardFileError) as caught:
        merge_shard(store, 0, max_bad_fraction=1)
    assert_one_line(caught.value, "shard 0", said)
    assert not store.merged_path(0).exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_was_cut_is_refused_when_it_is_fetched(share: float, shard: Shard, tmp_path: Path) -> None:
    path = tmp_path / "0.h5"
    written(path, shard)
    put(path, path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(WrongFileError):
        check_file(WantedFile(0, "image", path.name), path, "there")


@pytest.mark.parametrize("block", [512, 4_096, 16_384])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_a_file_with_a_block_of_the_users_own_is_read(block: int, version: str, shard: Shard, tmp_path: Path) -> None:
    """MATLAB's files have such a user block before the superblock."""
    store = store_of(tmp_path, **FILE)
    files = store.raw_files(1)
    with h5py.File(files.image, "w", userblock_size=block, libver=version) as file:
        file["emb/img"], file["emb/txt"] = shard.images, shard.texts
    wanted = WantedFile(1, "text", files.image.name)
    content = b"MATLAB".ljust(block, b" ") + files.image.read_bytes()[block:]
    files.image.write_bytes(content)
    check_start(wanted, content[: wanted.start_bytes], "here")
    check_file(wanted, files.image, "here")
    pq.write_table(shard.table, files.metadata)
    assert_equals(pq.read_table(merge_shard(store, 1, max_bad_fraction=0).path), shard, 1)
    files.image.write_bytes(content[:-1])
    with pytest.raises(WrongFileError, match="as its superblock says"):
        check_file(wanted, files.image, "here")
