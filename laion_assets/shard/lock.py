"""Lets one run at a time write one thing of the store, by a lock file. It does not know what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from laion_assets.errors import StoreError
from laion_assets.shard.store_errors import store_errors

LOOK_AGAIN_SECONDS = 0.05

WAIT_SECONDS = 3600.0
"""Seconds to wait. The locked work takes minutes at most, so after this time the other process seems to hang."""


@contextmanager
def file_lock(
    path: Path, subject: str, *, wait_seconds: float = WAIT_SECONDS, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Holds `path` while the block runs. A second process reports once that it waits, and waits for the first.

    The kernel releases the lock (flock) when its process dies, so no stale lock can remain. filelock's other kind of
    lock, a file that exists or not, could remain. The empty file is kept: after removing it a third run could lock a
    new file while the second locks the old one. Raises `StoreError` about `subject` if the folder cannot be written, or
    after `wait_seconds`.
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
