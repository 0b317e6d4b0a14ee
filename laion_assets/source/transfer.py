"""What the transfers of one shard's files share: limits, a stop, a log, progress and free space.

It moves no byte and opens no connection.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from laion_assets.errors import SourceError, StoreError
from laion_assets.settings import Settings
from laion_assets.source.failures import SlowSourceError, StoppedError

ProgressCallback: TypeAlias = Callable[[int, "int | None"], None]
"""Called with the bytes done since the last call, and the total bytes of the shard's files if known.

The bytes of one fetch add up to its files' sizes: bytes that were there before count as well, and bytes that had to be
thrown away are subtracted, as a negative number. Calls come from several threads, but one at a time.
"""

LogCallback: TypeAlias = Callable[[str], None]
"""Called with one line of text; from several threads, but one at a time."""

PROGRESS_SECONDS = 0.1
"""Least time between two calls of a `ProgressCallback`: bytes come in pieces of 64 KiB, thousands a second."""


@dataclass(frozen=True)
class FetchLimits:
    """Limits and waits of a fetch, in seconds if not stated otherwise.

    Waits between two tries at one URL double from `backoff_seconds` to `backoff_most_seconds`. Each is shortened at
    random by up to half, so that many runs do not try again at the same time. A source's own Retry-After replaces the
    wait, up to `retry_after_most_seconds`. `min_bytes_per_second` is averaged over `floor_window_seconds`.
    """

    tries: int = 100
    connect_seconds: float = 20.0
    read_seconds: float = 60.0
    file_seconds: float = 6 * 3600.0
    unreachable_seconds: float = 20.0
    """A host that never answered is given up after being unreachable for this time."""
    min_bytes_per_second: int = 10_000
    floor_window_seconds: float = 30.0
    backoff_seconds: float = 1.0
    backoff_most_seconds: float = 60.0
    retry_after_most_seconds: float = 300.0
    wrong_files: int = 2
    """A URL is given up after this many wrong files. The first may be a temporary page, or an outdated partial file."""
    idle_tries: int = 3
    """Number of tries in a row without a new byte, after which a URL with a partial file is left for another URL."""

    @classmethod
    def of(cls, settings: Settings) -> FetchLimits:
        """The limits by the LAION_HTTP_* settings."""
        return cls(
            tries=settings.http_tries,
            connect_seconds=settings.http_connect_seconds,
            read_seconds=settings.http_read_seconds,
            file_seconds=settings.http_file_seconds,
            unreachable_seconds=settings.http_unreachable_seconds,
            min_bytes_per_second=settings.http_min_bytes_per_second,
        )


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


class Pace:
    """Ends tries at one file when their total time is over, or when the throughput is below the minimum."""

    def __init__(self, subject: str, limits: FetchLimits) -> None:
        self._subject = subject
        self._limits = limits
        self._ends_at = time.monotonic() + limits.file_seconds
        self.begin()

    @property
    def seconds_left(self) -> float:
        """Seconds until the time for this file is over, 0 when it is over."""
        return max(0.0, self._ends_at - time.monotonic())

    def begin(self) -> None:
        """A try begins: the throughput is measured from now on."""
        self._window_start = time.monotonic()
        self._window_bytes = 0

    def add(self, count: int, url: str) -> None:
        """Adds received bytes. Raises `SourceError` when the time is over, `SlowSourceError` below the minimum rate."""
        self._window_bytes += count
        now = time.monotonic()
        if now >= self._ends_at:
            raise SourceError(
                f"{self._subject} from {url}",
                found=f"an incomplete file after {self._limits.file_seconds:g} s",
                advice="LAION_HTTP_FILE_SECONDS sets the limit; what has come is kept and used",
            )
        seconds = now - self._window_start
        if seconds < self._limits.floor_window_seconds:
            return
        if self._window_bytes < self._limits.min_bytes_per_second * seconds:
            raise SlowSourceError(
                f"{self._subject} from {url}",
                found=f"{self._window_bytes / seconds:,.0f} bytes a second over {seconds:.1f} s",
                expected=f"at least {self._limits.min_bytes_per_second:,} (LAION_HTTP_MIN_BYTES_PER_SECOND)",
            )
        self.begin()
