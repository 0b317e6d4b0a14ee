"""One run at a time writes one thing of the store: a lock file for each. What is written is not its business."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from laion_assets.errors import StoreError
from laion_assets.shard.store_errors import store_errors

LOOK_AGAIN_SECONDS = 0.05

WAIT_SECONDS = 3600.0
"""The locked work takes minutes at most: a longer wait is for a process that hangs."""


@contextmanager
def file_lock(
    path: Path, subject: str, *, wait_seconds: float = WAIT_SECONDS, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold `path` while the code inside runs; the second to come says so once, and waits for the first.

    The kernel releases the lock (flock) when its process dies, so that no stale lock can be left; filelock's other kind
    of lock, a file that is there or not, would stay. The empty file stays: removing it would let a third run lock a new
    file while the second locks the old one. Raises `StoreError` about `subject` when the folder refuses, or after
    `wait_seconds`.
    """
    lock = FileLock(path, poll_interval=LOOK_AGAIN_SECONDS, thread_local=False, fallback_to_soft=False)
    with store_errors(subject):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _acquired(lock, 0):
            if say is not None:
                say(f"{subject}: another run is working on it; waiting for that one to end ({path})")
            if not _acquired(lock, wait_seconds):
                raise StoreError(
                    subject,
                    found=f"{path.name} in {path.parent} held by another run for {wait_seconds:g} s",
                    advice="check whether that run still makes progress; when its process ends, the lock is released",
                )
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock, seconds: float) -> bool:
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        return False
    return True
