"""Tests of interrupted fetches (a signal, a full disk, another run): fetched bytes are kept, and no half file stays."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from laion_assets.errors import StoreError
from laion_assets.shard.lock import file_lock
from laion_assets.source.failures import StoppedError
from laion_assets.source.fetch_limits import Pace
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.partial import Origin, PartialFile
from laion_assets_tests.source.fetching import QUICK, process, run
from laion_assets_tests.source.misbehaving_server import MisbehavingServer
from laion_assets_tests.source.served_shard import (
    CONTENT,
    FILES,
    IMAGE,
    METADATA,
    SIZE,
    TEXT,
    OneFile,
    leave_part,
    wanted_image,
)

THREE = (IMAGE, TEXT, METADATA)


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until the condition holds, for at most 30 s."""
    ends_at = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends_at, "it did not come to pass"
        time.sleep(0.01)


def part_sizes(raw: Path) -> dict[str, int]:
    """Returns the size in bytes of each partial file."""
    return {path.name.removesuffix(".part"): path.stat().st_size for path in raw.glob("*.part")}


def test_a_killed_run_is_continued_where_it_ended(server: MisbehavingServer, tmp_path: Path) -> None:
    raw, source = tmp_path / "raw", server.base("dribble=60000")
    with process(source, raw) as (child, _):
        wait_until(lambda: len(part_sizes(raw)) == 3 and min(part_sizes(raw).values()) > 5_000)
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    came = part_sizes(raw)
    assert not any((raw / name).exists() for name in THREE)
    server.calm = True
    fetched = run(source, raw)
    assert {file.path.name: file.bytes - file.bytes_fetched for file in fetched} == came
    assert all(file.path.read_bytes() == FILES[file.path.name] for file in fetched)


@pytest.mark.parametrize("behaviour", ["dribble=60000", "stall=8000", "status=503&retry_after=10"])
def test_an_interrupt_ends_all_threads_at_once_and_keeps_the_parts(
    server: MisbehavingServer, tmp_path: Path, behaviour: str
) -> None:
    raw = tmp_path / "raw"
    with process(server.base(behaviour), raw) as (child, hear):
        if behaviour.startswith("status"):
            wait_until(lambda: len(server.requests) >= 3)
        else:
            wait_until(lambda: len(part_sizes(raw)) == 3 and min(part_sizes(raw).values()) > 5_000)
        sent_at = time.monotonic()
        os.kill(child.pid or 0, signal.SIGINT)
        ended_at = hear()
        child.join(5)
        assert isinstance(ended_at, float) and ended_at - sent_at < 3
        assert child.exitcode == 0 and time.monotonic() - sent_at < 5
    came = part_sizes(raw)
    server.calm = True
    assert sum(file.bytes - file.bytes_fetched for file in run(server.base(behaviour), raw)) == sum(came.values())


def test_an_interrupt_does_not_wait_for_a_connection(tmp_path: Path) -> None:
    """A listener whose queue is full accepts no more connections; the time limit for one is longer than the test."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), process(f"http://127.0.0.1:{address[1]}", tmp_path / "raw") as started:
            child, hear = started
            time.sleep(0.5)
            sent_at = time.monotonic()
            os.kill(child.pid or 0, signal.SIGINT)
            assert isinstance(hear(), float)
            child.join(5)
            assert child.exitcode == 0 and time.monotonic() - sent_at < 5


def test_a_thread_that_a_stop_left_behind_touches_nothing(tmp_path: Path) -> None:
    origin = Origin("http://x/y", None, None, SIZE)
    leave_part(tmp_path, IMAGE, CONTENT[:-9], origin)
    transfer = ShardTransfer("shard 0", {IMAGE: SIZE})
    partial = PartialFile(tmp_path, wanted_image(), transfer)
    transfer.stop.set()
    pace = Pace("shard 0", QUICK)
    attempts: list[Callable[[], None]] = [
        lambda: partial.receive(origin, iter([CONTENT]), pace, restart=True),
        lambda: partial.receive(origin, iter([CONTENT[-9:]]), pace, restart=False),
        lambda: partial.finish(None),
        partial.discard,
    ]
    for late in attempts:
        with pytest.raises(StoppedError):
            late()
    assert part_sizes(tmp_path) == {IMAGE: SIZE - 9}


def test_two_processes_at_one_shard_fetch_it_once(server: MisbehavingServer, tmp_path: Path) -> None:
    raw, source = tmp_path / "raw", server.base("dribble=2000000")
    with process(source, raw) as (first, hear_first), process(source, raw) as (second, hear_second):
        told = [hear_first(), hear_second()]
        first.join(30)
        second.join(30)
    total = sum(len(FILES[name]) for name in THREE)
    assert sorted(told, key=str) == [0, total]
    gets = [request for request in server.requests if request.method == "GET"]
    assert server.sent() == total and len(gets) == 3
    assert all((raw / name).read_bytes() == FILES[name] for name in THREE)


def test_the_second_run_says_that_it_waits(server: MisbehavingServer, tmp_path: Path) -> None:
    log: list[str] = []
    with file_lock(tmp_path / ".0.lock", "shard 0"):
        thread = threading.Thread(target=run, args=(server.base(), tmp_path, log))
        thread.start()
        wait_until(lambda: len(log) == 1)
        assert server.requests == [] and "another run is working on it" in log[0]
    thread.join()
    assert (tmp_path / IMAGE).read_bytes() == CONTENT


# Disks that refuse to be written to.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB; skips the test if none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs to be root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the options of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_want_of_space_is_said_before_a_byte_is_written(server: MisbehavingServer, small_disk: Path) -> None:
    error = OneFile(small_disk).failure(server.base())
    assert isinstance(error, StoreError)
    assert f"{SIZE:,} for what is still to be fetched" in str(error) and "LAION_DATA_DIR" in str(error)
    assert part_sizes(small_disk).get(IMAGE, 0) == 0 and len(server.requests) == 1


def test_a_disk_that_fills_up_is_said_and_what_came_is_used_later(server: MisbehavingServer, small_disk: Path) -> None:
    """The size was not known before. The same happens when another process takes the space."""
    one = OneFile(small_disk)
    error = one.failure(server.base("length=chunked"))
    assert isinstance(error, StoreError)
    assert "No space left on device" in str(error) and "the disk is full" not in str(error)
    assert "free some space" in str(error) and "shard 0, img_emb_0.npy" in str(error)
    came = part_sizes(small_disk)[IMAGE]
    assert came > 100_000
    remount(small_disk, "size=2m")
    fetched = one.fetch(server.base("length=chunked"))
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.bytes_fetched == SIZE - came


def test_the_files_of_a_shard_need_room_together(server: MisbehavingServer, small_disk: Path) -> None:
    remount(small_disk, "size=500k")
    with pytest.raises(StoreError, match="bytes free"):
        run(server.base("dribble=200000"), small_disk)
    assert not any((small_disk / name).exists() for name in (IMAGE, TEXT))


def test_a_read_only_disk_is_said(server: MisbehavingServer, small_disk: Path) -> None:
    remount(small_disk, "ro")
    with pytest.raises(StoreError, match=r"Read-only file system.*set LAION_DATA_DIR to a folder that can be written"):
        run(server.base(), small_disk)
    assert server.requests == []


def test_a_folder_that_may_not_be_written_is_said(server: MisbehavingServer, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "raw").write_text("a file where the folder should be")
        said = "File exists"
    else:
        (tmp_path / "raw").mkdir(mode=0o500)
        said = "Permission denied"
    with pytest.raises(StoreError, match=f"{said}.*LAION_DATA_DIR"):
        run(server.base(), tmp_path / "raw")


def test_a_limit_on_file_sizes_is_said(server: MisbehavingServer, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        error = OneFile(tmp_path).failure(server.base())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(error, StoreError) and "File too large" in str(error) and "ulimit -f" in str(error)
    assert OneFile(tmp_path).fetch(server.base()).bytes_fetched == SIZE - 200_000
