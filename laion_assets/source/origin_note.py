"""The note beside a raw file that says which remote file it came from, so that a changed remote file is recognized.

It fetches and removes nothing. The note goes with the file (`shard.store` removes both).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from laion_assets.shard.places import new_origin_path, origin_path
from laion_assets.source.mirrors import RemoteFile

REMOTE_FILES = TypeAdapter(RemoteFile)


def write_origin(final: Path, remote: RemoteFile) -> None:
    """Notes which remote file `final` was made from. Raises `OSError`.

    It is written after the file: one that a crash left without its note, or with that of the file before, is at worst
    fetched once more, or not compared.
    """
    temporary = new_origin_path(final)
    temporary.write_bytes(REMOTE_FILES.dump_json(remote))
    temporary.replace(origin_path(final))


def read_origin(final: Path) -> RemoteFile | None:
    """What was noted; None where nothing was, or it cannot be read."""
    try:
        return REMOTE_FILES.validate_json(origin_path(final).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
