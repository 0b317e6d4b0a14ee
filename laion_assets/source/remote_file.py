"""What a source says about one of its files. It asks no source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """A file as its source describes it: URL (without secrets), bytes, ETag, date or version; None means unknown.

    `sha256` is set if the source states it, as the hub does for large files.
    """

    url: str
    size: int | None
    etag: str | None
    modified: str | None
    sha256: str | None = None

    @property
    def version(self) -> str:
        """A text that changes with the file: its ETag, else its date, and its size."""
        return f"{self.etag or self.modified or 'unknown'}, {'?' if self.size is None else self.size} bytes"
