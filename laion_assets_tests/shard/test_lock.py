"""Tests of the store's lock: one holder at a time, waits are limited and logged, and a killed holder frees it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from laion_assets.errors import StoreError
from laion_assets.shard.lock import file_lock
from laion_assets_tests.conftest import assert_one_line

HOLDER = """
import sys
from pathlib import Path
from laion_assets.shard.lock import file_lock
with file_lock(Path(sys.argv[1]), "here"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_wait_has_an_end_that_names_what_is_held(tmp_path: Path) -> None:
    path = tmp_path / "made if need be" / ".7.lock"
    with (
        file_lock(path, "shard 7"),
        pytest.raises(StoreError) as caught,
        file_lock(path, "shard 7", wait_seconds=0.1),
    ):
        pass
    assert_one_line(caught.value, "shard 7: found .7.lock in ", "held by another run for 0.1 s")


def test_who_waits_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        file_lock(tmp_path / "lock", "shard 7"),
        pytest.raises(StoreError),
        file_lock(tmp_path / "lock", "shard 7", wait_seconds=0.3, say=said.append),
    ):
        pass
    assert len(said) == 1
    assert said[0].startswith("shard 7: another run is working on it")


def test_locks_of_different_things_do_not_wait_for_one_another(tmp_path: Path) -> None:
    with file_lock(tmp_path / "1", "a", wait_seconds=0), file_lock(tmp_path / "2", "b", wait_seconds=0):
        pass


def test_a_holder_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StoreError), file_lock(tmp_path / "lock", "here", wait_seconds=0):
            pass
        process.kill()
        process.wait()
    with file_lock(tmp_path / "lock", "here", wait_seconds=0):
        pass


def test_of_many_that_come_and_go_only_one_is_ever_inside(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def come_and_go(number: int) -> None:
        for _ in range(10):
            with file_lock(tmp_path / "lock", "here"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.001)
                inside.remove(number)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] * 60


def test_a_folder_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError) as caught, file_lock(tmp_path / "file" / "lock", "shard 7"):
        pass
    assert_one_line(caught.value, "shard 7")
