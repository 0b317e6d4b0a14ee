"""Tests of the store: the places of files, one writer at a time, and files that appear whole or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from laion_assets.errors import StoreError
from laion_assets.shard.files import remove_file, replacing, scratch_folder, sweep
from laion_assets.shard.store import ShardStore
from laion_assets_tests.conftest import SAMPLE, Shard, assert_one_line


def names(folder: Path) -> list[str]:
    """Returns the names of a folder's files without lock files, which are empty and stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_files_of_a_shard_lie_where_people_look_for_them(tmp_path: Path) -> None:
    store = ShardStore(tmp_path, SAMPLE)
    files = store.raw_files(3)
    assert files.image == tmp_path / "raw" / "img_emb_3.npy"
    assert files.text == tmp_path / "raw" / "text_emb_3.npy"
    assert files.metadata == tmp_path / "raw" / "metadata_3.parquet"
    assert store.merged_path(3) == tmp_path / "merged" / "merged_3.parquet"
    assert store.quarantine_path(3) == tmp_path / "merged" / "quarantine_3.parquet"
    assert files.subject("image") == "shard 3, img_emb_3.npy"


def test_removing_raw_files_frees_their_bytes_and_can_be_repeated(tmp_path: Path, sample_shards: list[Shard]) -> None:
    store = ShardStore(tmp_path, SAMPLE)
    files = sample_shards[2].place(store, 1)
    other = sample_shards[2].place(store, 2)
    sizes = sum(path.stat().st_size for path in files.paths().values())
    assert store.remove_raw(1) == sizes
    assert store.remove_raw(1) == 0
    assert files.missing() == list(files.paths().values())
    assert other.missing() == []


def test_removing_a_link_leaves_its_original(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(original)
    remove_file(link)
    assert original.read_text() == "precious"
    assert not link.is_symlink()


def test_removing_one_of_two_names_of_a_file_frees_nothing(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.write_text("precious")
    (tmp_path / "link").hardlink_to(original)
    assert remove_file(tmp_path / "link") == 0
    assert original.read_text() == "precious"
    assert remove_file(original) == 8


def test_a_file_takes_its_place_when_its_writing_ended_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path, subject="shard 0") as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_a_file_stays_as_it_was_when_its_writing_failed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path, subject="shard 0") as temporary:
        temporary.write_text("half of the n")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), replacing(path, subject="shard 0") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.tmp").write_text("half of a file that was never finished")
    with replacing(path, subject="shard 0") as temporary:
        assert not temporary.exists()
        temporary.write_text("new")
    assert names(tmp_path) == ["file"]


def test_what_a_killed_process_left_of_another_file_is_swept_too(tmp_path: Path) -> None:
    (tmp_path / ".other.tmp").write_text("half of a file that nobody will write again")
    (tmp_path / ".other.lock").touch()
    (tmp_path / "file").touch()
    sweep(tmp_path)
    assert names(tmp_path) == ["file"]
    sweep(tmp_path / "not there")


def test_what_a_living_writer_has_written_is_left(tmp_path: Path) -> None:
    with replacing(tmp_path / "slow", subject="shard 0") as slow:
        slow.write_text("half")
        sweep(tmp_path)
        assert names(tmp_path) == [".slow.tmp"]
    assert names(tmp_path) == ["slow"]


def test_files_of_others_beside_a_page_of_ours_are_left(tmp_path: Path) -> None:
    (tmp_path / ".other.tmp").touch()
    with replacing(tmp_path / "page.html", subject="page") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == [".other.tmp", "page.html"]


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    inside: list[int] = []
    most: list[int] = []

    def write(number: int) -> None:
        for _ in range(5):
            with replacing(path, subject="shard 0") as temporary:
                inside.append(number)
                most.append(len(inside))
                temporary.write_text(str(number) * 1_000)
                time.sleep(0.002)
                assert temporary.read_text() == str(number) * 1_000
                inside.remove(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
    assert most == [1] * 20
    assert len(path.read_text()) == 1_000
    assert names(tmp_path) == ["file"]


def test_a_disk_that_refuses_is_an_error_that_says_which_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError) as caught, replacing(tmp_path / "file" / "below", subject="shard 7"):
        pass
    assert_one_line(caught.value, "shard 7", str(tmp_path / "file"), "LAION_DATA_DIR")


def test_what_a_killed_process_left_in_a_scratch_folder_goes_when_the_next_one_comes(tmp_path: Path) -> None:
    folder = tmp_path / "data" / ".scratch"
    (folder / "of a dead process").mkdir(parents=True)
    with scratch_folder(folder, subject="trial") as empty:
        assert (empty, list(empty.iterdir())) == (folder, [])
        (empty / "mine").touch()
    assert not folder.exists()
