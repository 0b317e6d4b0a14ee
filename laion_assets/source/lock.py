"""One run at a time writes one shard's files: a lock file per shard. What is written is not its business."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from laion_assets.errors import StoreError
from laion_assets.source.storing import store_errors

LOOK_AGAIN_SECONDS = 0.2


@contextmanager
def shard_lock(folder: Path, shard: int, *, wait_seconds: float, say: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder/.SHARD.lock` while the code inside runs; the second to come waits for the first.

    It is a flock, which the kernel lets go when its process dies, so that no stale lock can be left. The empty file
    stays: removing it would let a third run lock a new file while the second locks the old one. Raises `StoreError`
    when the folder refuses, or after `wait_seconds`.
    """
    path = folder / f".{shard}.lock"
    with store_errors(f"shard {shard} in {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait(descriptor, path, shard, wait_seconds, say)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, shard: int, wait_seconds: float, say: Callable[[str], None]) -> None:
    ends_at = time.monotonic() + wait_seconds
    told = False
    while not _try_lock(descriptor, path, shard):
        if time.monotonic() >= ends_at:
            raise StoreError(
                f"shard {shard} in {path.parent}",
                found=f"{path.name} held by another run for {wait_seconds:g} s",
                advice="see whether that run still gets on; when its process ends, the lock goes with it",
            )
        if not told:
            say(f"shard {shard}: another run fetches it; waiting for that one to end ({path})")
            told = True
        time.sleep(LOOK_AGAIN_SECONDS)


def _try_lock(descriptor: int, path: Path, shard: int) -> bool:
    with store_errors(f"shard {shard}, {path}"):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
