"""What reading a folder and an object store have in common: blocks of a file, and whether it is still the same file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from laion_assets.errors import SourceError
from laion_assets.source.mirrors import RemoteFile
from laion_assets.source.wanted import WantedFile

BLOCK_BYTES = 8 << 20
"""One request to an object store fetches so much: S3 gives a connection its full speed from about this size on."""

LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ImportError, ValueError)
"""Errors that trying again does not help; `ValueError` is fsspec's word for a kind of URL that it does not know."""


def pieces(file: IO[bytes], count: int) -> Iterator[bytes]:
    """The next bytes of a file, in blocks; fewer where it ends."""
    while count and (block := file.read(min(count, BLOCK_BYTES))):
        count -= len(block)
        yield block


def require_same(wanted: WantedFile, pinned: RemoteFile, now: RemoteFile) -> None:
    """Raises `SourceError` where a source describes the file in another way than before."""
    if pinned != now:
        raise SourceError(
            f"{wanted.subject} from {now.url}", found=f"{now.version}", expected=f"{pinned.version}, as before"
        )
