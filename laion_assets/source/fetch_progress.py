"""What the threads that fetch one shard's files share: progress, free space, a log and a stop. It moves no byte."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from laion_assets.errors import StoreError
from laion_assets.source.failures import StoppedError

ProgressCallback: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the bytes done since the last call, and the total bytes of the shard's files if known.

The bytes of one fetch add up to its files' sizes: bytes that were there before count as well, and bytes that had to be
thrown away are subtracted, as a negative number. Calls come from several threads, but one at a time.
"""

LogCallback: TypeAlias = Callable[[str], None]
"""Called with one line of text; from several threads, but one at a time."""

PROGRESS_SECONDS = 0.1
"""Least time between two calls of a `ProgressCallback`: bytes come in pieces of 64 KiB, thousands a second."""


class ShardTransfer:
    """The state that the threads of one shard's fetch share. `sizes` has the files' names, and bytes if known."""

    def __init__(
        self,
        subject: str,
        sizes: Mapping[str, int | None],
        *,
        progress: ProgressCallback | None = None,
        log: LogCallback | None = None,
    ) -> None:
        self.stop = threading.Event()
        self._subject = subject
        self._progress = progress
        self._log = log
        self._log_lock = threading.Lock()
        self._lock = threading.Lock()
        self._done = dict.fromkeys(sizes, 0)
        self._totals = dict(sizes)
        self._copied: set[str] = set()
        self._unreported = 0
        self._reported_at = 0.0

    def say(self, message: str) -> None:
        """Logs one line."""
        with self._log_lock:
            if self._log is not None:
                self._log(message)

    def check_stop(self) -> None:
        """Raises `StoppedError` if the fetch should end."""
        if self.stop.is_set():
            raise StoppedError

    def expect(self, name: str, total: int | None, *, copied_to: Path | None = None) -> None:
        """Sets a file's total bytes; if it is copied into a folder, checks that there is room for all missing bytes.

        Raises `StoreError` if the missing bytes of the shard's copied files are more than the disk has free.
        """
        with self._lock:
            self._totals[name] = total
            if copied_to is None:
                return
            self._copied.add(name)
            missing = sum((self._totals[each] or 0) - self._done[each] for each in self._copied if self._totals[each])
        free = shutil.disk_usage(copied_to).free
        if missing > free:
            raise StoreError(
                f"{self._subject} in {copied_to}",
                found=f"{free:,} bytes free",
                expected=f"{missing:,} for what is still to be fetched",
                advice="free some space, or set LAION_DATA_DIR to a larger disk",
            )

    def moved(self, name: str, count: int, *, report: bool = False) -> None:
        """Adds `count` bytes of a file (negative: thrown away); with `report` they are reported at once."""
        with self._lock:
            self._done[name] += count
            self._unreported += count
            now = time.monotonic()
            if self._progress is None or not self._unreported:
                return
            if report or now - self._reported_at >= PROGRESS_SECONDS:
                totals = list(self._totals.values())
                total = None if None in totals else sum(total or 0 for total in totals)
                unreported, self._unreported, self._reported_at = self._unreported, 0, now
                self._progress(unreported, total)
