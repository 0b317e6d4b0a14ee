"""One run at a time writes one thing of the store: a lock file for each. What is written is not its business."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from laion_assets.errors import StoreError
from laion_assets.shard.store_errors import store_errors

LOOK_AGAIN_SECONDS = 0.05

WAIT_SECONDS = 3600.0
"""For what takes minutes at most: whoever waits so long waits for a process that hangs."""


@contextmanager
def file_lock(
    path: Path, subject: str, *, wait_seconds: float = WAIT_SECONDS, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold `path` while the code inside runs; the second to come says so once, and waits for the first.

    It is a flock, which the kernel lets go when its process dies, so that no stale lock can be left. The empty file
    stays: removing it would let a third run lock a new file while the second locks the old one. Raises `StoreError`
    about `subject` when the folder refuses, or after `wait_seconds`.
    """
    with store_errors(subject):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _wait(descriptor, path, subject, wait_seconds, say)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, path: Path, subject: str, wait_seconds: float, say: Callable[[str], None] | None) -> None:
    ends_at = time.monotonic() + wait_seconds
    while not _try_lock(descriptor, subject):
        if time.monotonic() >= ends_at:
            raise StoreError(
                subject,
                found=f"{path.name} in {path.parent} held by another run for {wait_seconds:g} s",
                advice="see whether that run still gets on; when its process ends, the lock goes with it",
            )
        if say is not None:
            say(f"{subject}: another run is at it; waiting for that one to end ({path})")
            say = None
        time.sleep(LOOK_AGAIN_SECONDS)


def _try_lock(descriptor: int, subject: str) -> bool:
    with store_errors(subject):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
