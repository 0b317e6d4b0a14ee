"""How fast the source gives its files: measured for a few seconds with one shard, whose bytes are thrown away."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from laion_assets.errors import LaionError
from laion_assets.redact import redact
from laion_assets.settings import Settings
from laion_assets.shard.files import scratch_folder
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.fetch_limits import FetchLimits

TRIAL_SECONDS = 8.0


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second of all connections together, and how the figure is known. None means unknown; 0 means that nothing
    needs to be copied."""

    bytes_per_second: float | None
    how: str

    @property
    def copies(self) -> bool:
        """Whether fetched files take space on the store's disk."""
        return self.bytes_per_second != 0

    def seconds(self, size: int) -> float:
        """Seconds to fetch `size` bytes; 0 if nothing is copied, or the bandwidth is unknown."""
        return size / self.bytes_per_second if self.bytes_per_second else 0.0


def given_bandwidth(megabytes_per_second: float) -> Bandwidth:
    """The bandwidth that the caller gives."""
    return Bandwidth(megabytes_per_second * 1e6, f"{megabytes_per_second:g} MB/s as given")


def tried_bandwidth(settings: Settings, shard: int, seconds: float = TRIAL_SECONDS) -> Bandwidth:
    """Fetches a shard for at most `seconds` into a scratch folder of the store, and removes the folder."""
    trial = _Trial(seconds)
    limits = replace(FetchLimits.of(settings), tries=2, file_seconds=2 * seconds, connect_seconds=seconds)
    source = redact(settings.sources[0].url)
    with scratch_folder(settings.data_dir / ".bandwidth", subject="trial of the bandwidth") as folder:
        try:
            files = fetch_shard(settings, shard, folder, progress=trial.moved, limits=limits)
        except _EnoughError:
            pass
        except LaionError as error:
            return Bandwidth(None, f"not known: {error.subject}: {error.found}")
        else:
            if all(file.linked for file in files):
                return Bandwidth(0.0, f"files of {source} are linked, not copied")
    return Bandwidth(trial.rate, f"{trial.rate / 1e6:,.1f} MB/s from {source}, tried for {trial.seconds:.1f} s")


class _EnoughError(Exception):
    """The trial has run long enough."""


class _Trial:
    """Counts bytes, and ends the fetch after a time limit."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._started = time.monotonic()
        self._bytes = 0
        self.seconds = 0.0

    def moved(self, done: int, _total: int | None) -> None:
        """Called as a `ProgressCallback`."""
        self._bytes += done
        self.seconds = time.monotonic() - self._started
        if self.seconds >= self._limit:
            raise _EnoughError

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self._bytes / max(self.seconds, 1e-3)
