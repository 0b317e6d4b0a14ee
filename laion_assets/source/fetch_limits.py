"""Limits and waits of a fetch, and the pace at which a file must come. It moves no byte and opens no connection."""

from __future__ import annotations

import time
from dataclasses import dataclass

from laion_assets.errors import SourceError
from laion_assets.settings import Settings
from laion_assets.source.failures import SlowSourceError


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
