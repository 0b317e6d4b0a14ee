"""What folders and object stores share for reading: blocks of a file, and a check that it is still the same file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from laion_assets.errors import SourceError
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile

BLOCK_BYTES = 8 << 20
"""Bytes of one request to an object store: from about this size on S3 gives a connection its full speed."""

LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ImportError, ValueError)
"""Errors for which trying again does not help; fsspec raises `ValueError` for an unknown kind of URL."""


def pieces(file: IO[bytes], count: int) -> Iterator[bytes]:
    """The next bytes of a file, in blocks; fewer if the file ends."""
    while count and (block := file.read(min(count, BLOCK_BYTES))):
        count -= len(block)
        yield block


def require_same(wanted: WantedFile, pinned: RemoteFile, now: RemoteFile) -> None:
    """Raises `SourceError` if a source describes the file differently than before."""
    if pinned != now:
        raise SourceError(
            f"{wanted.subject} from {now.url}", found=f"{now.version}", expected=f"{pinned.version}, as before"
        )
