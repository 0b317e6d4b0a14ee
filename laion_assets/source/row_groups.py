"""A share of a large Parquet file's row groups, read by ranges from any source, as a file of its own.

The footer is read first. Then each range is requested from the same version of the file: HTTP and S3 get its ETag
(If-Match), a folder's file must have the same size and date. Received bytes are continued only if that is still so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.shard.parquet_slice import (
    MAGIC,
    TAIL_BYTES,
    NoRowGroupsError,
    ParquetSlice,
    footer_length,
    slice_parquet,
)
from laion_assets.source.failures import WrongFileError
from laion_assets.source.fetch_limits import Pace
from laion_assets.source.mirrors import Arrival
from laion_assets.source.partial import Origin, PartialFile
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile

FIRST_TAIL_BYTES = 1 << 16
"""Bytes of a file's end that are read first: the footer of 60 row groups of 15 columns is shorter."""


class RangedFile(Protocol):
    """A file at one place, of which any range can be read."""

    @property
    def url(self) -> str:
        """The URL in a form that may be shown."""

    def observe(self) -> RemoteFile:
        """What the source says about the file. Raises `SourceError`."""

    def read_range(self, first: int, end: int, pinned: RemoteFile, seconds_left: float, /) -> Iterator[bytes]:
        """The bytes from `first` to `end` of the file that `pinned` describes. Raises `SourceError`."""


class SlicedFile:
    """The share of a file that is one shard."""

    def __init__(self, whole: RangedFile, wanted: WantedFile) -> None:
        self.url = whole.url
        self._whole = whole
        self._wanted = wanted
        self._subject = f"{wanted.subject} from {self.url}"

    def observe(self) -> RemoteFile:
        """What the source says about the whole file. Raises `SourceError`."""
        return self._whole.observe()

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:
        """Completes `partial`, from its end if it is a part of this same share and file. Raises `SourceError`."""
        remote = self.observe()
        found = self._slice(remote, partial, pace)
        etag = remote.etag if remote.etag and not remote.etag.startswith("W/") else None
        origin = Origin(self.url, etag, remote.modified, found.size, remote)
        continues = partial.origin == origin and (etag or remote.modified)
        first = partial.size if continues else 0
        partial.receive(origin, self._content(found, first, remote, pace), pace, restart=first == 0)
        return Arrival(self.url, remote.etag, remote=remote)

    def _slice(self, remote: RemoteFile, partial: PartialFile, pace: Pace) -> ParquetSlice:
        """What to read of the file, by its footer."""
        share, size = self._wanted.slice, remote.size
        assert share is not None, "only files that are cut come here"
        if size is None:
            raise PermanentSourceError(self._subject, found="no size of the file", expected="its Content-Length")
        try:
            tail = self._read(max(0, size - FIRST_TAIL_BYTES), size, remote, pace)
            length = footer_length(tail[-TAIL_BYTES:], size)
            first = size - TAIL_BYTES - length
            missing = len(tail) - TAIL_BYTES - length
            if missing < 0:
                tail = self._read(first, first - missing, remote, pace) + tail
            partial.received += len(tail)
            return slice_parquet(tail[-TAIL_BYTES - length : -TAIL_BYTES], first, share)
        except NoRowGroupsError as error:
            raise PermanentSourceError(
                self._subject,
                found=str(error),
                expected="a row group or more for each shard",
                advice="lower shards_per_file in the dataset's TOML file, and load all shards of the file again",
            ) from error
        except ValueError as error:
            raise WrongFileError(
                self._subject, found=str(error), expected="a Parquet file with a sound footer"
            ) from error

    def _content(self, found: ParquetSlice, first: int, remote: RemoteFile, pace: Pace) -> Iterator[bytes]:
        """The bytes of the new file from `first` on: magic bytes, ranges, footer."""
        if first < len(MAGIC):
            yield MAGIC[first:]
        begin = len(MAGIC)
        for start, end in found.ranges:
            skipped = max(0, first - begin)
            if start + skipped < end:
                yield from self._exactly(start + skipped, end, remote, pace)
            begin += end - start
        yield found.footer[max(0, first - begin) :]

    def _read(self, first: int, end: int, remote: RemoteFile, pace: Pace) -> bytes:
        return b"".join(self._exactly(first, end, remote, pace))

    def _exactly(self, first: int, end: int, remote: RemoteFile, pace: Pace) -> Iterator[bytes]:
        """All bytes of a range: if bytes are missing, the next range must not come in their place."""
        left = end - first
        for piece in self._whole.read_range(first, end, remote, pace.seconds_left):
            if len(piece) > left:
                raise WrongFileError(self._subject, found="more bytes than the range has", expected=f"{end - first}")
            left -= len(piece)
            yield piece
        if left:
            raise SourceError(
                self._subject, found=f"an end {left:,} bytes before the range's", expected=f"{end - first:,}"
            )
