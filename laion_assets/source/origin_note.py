"""The note beside a raw file that says which remote file it came from, so that a change of that file is noticed.

It fetches and removes nothing. The note is removed with the file (`shard.store` removes both).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from laion_assets.shard.places import new_origin_path, origin_path
from laion_assets.source.remote_file import RemoteFile

REMOTE_FILES = TypeAdapter(RemoteFile)


def write_origin(final: Path, remote: RemoteFile) -> None:
    """Writes down from which remote file `final` was made. Raises `OSError`.

    The note is written after the file. If a crash leaves a file with the note of the file before, the file is fetched
    once more. If it leaves a file without a note, the note beside the partial file is used. A file that somebody put
    there has neither, and is not compared.
    """
    temporary = new_origin_path(final)
    temporary.write_bytes(REMOTE_FILES.dump_json(remote))
    temporary.replace(origin_path(final))


def read_origin(final: Path) -> RemoteFile | None:
    """The note; None if there is none, or if it cannot be read."""
    try:
        return REMOTE_FILES.validate_json(origin_path(final).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
