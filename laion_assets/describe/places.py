"""The files of a folder or a URL, opened to read any part of them. `layout` finds out what the files mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from laion_assets.errors import PermanentSourceError
from laion_assets.redact import redact
from laion_assets.source.object_store import described, in_store
from laion_assets.source.places import local_folder
from laion_assets.source.remote_file import RemoteFile

if TYPE_CHECKING:
    from upath import UPath

DEPTH = 4
"""How many levels of subfolders are searched."""

MOST_FILES = 200_000
"""Most files of a place: three for each shard that a table can have, and a few more."""


class Place(Protocol):
    """A folder, a bucket or a web server's directory."""

    url: str

    def files(self) -> list[str]:
        """Paths below the place, with slashes, sorted. Raises `SourceError`."""

    def open(self, path: str) -> IO[bytes]:
        """Opens one of its files, seekable. Raises `SourceError`, `OSError`."""


class LocalPlace:
    """A folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder.absolute())
        self._folder = folder.absolute()

    def files(self) -> list[str]:
        """Paths of the files in it, without hidden files. Raises `PermanentSourceError`."""
        if not self._folder.is_dir():
            found = "a file" if self._folder.exists() else "nothing there"
            raise PermanentSourceError(f"describe {self.url}", found=found, expected="a folder of a dataset's files")
        found_files: list[str] = []
        for folder, folders, names in os.walk(self._folder, onerror=_refuse_unreadable, followlinks=True):
            inner = Path(folder).relative_to(self._folder)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and len(inner.parts) + 1 < DEPTH)
            found_files += [(inner / name).as_posix() for name in names if not name.startswith(".")]
            _refuse_many(self.url, found_files)
        return sorted(found_files)

    def open(self, path: str) -> IO[bytes]:
        """Opens one of its files. A pipe is refused, since opening a pipe would wait."""
        file = self._folder / path
        if not file.is_file():
            raise PermanentSourceError(f"describe {file}", found="a folder, a pipe or a device", expected="a file")
        return file.open("rb")


def _refuse_unreadable(error: OSError) -> None:
    """Raises for a folder that cannot be listed, except for `lost+found`, which every disk has for its repair."""
    if Path(str(error.filename)).name != "lost+found":
        raise PermanentSourceError(
            f"describe {error.filename}",
            found=error.strerror or str(error),
            expected="a folder that can be read",
        ) from error


class StoredPlace:
    """A prefix in an object store, or in any other store that fsspec can list: `s3://`, `gs://`."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def files(self) -> list[str]:
        """Paths of the objects below it."""
        found = sorted(self._found())
        _refuse_many(self.url, found)
        return found

    def facts(self) -> dict[str, RemoteFile]:
        """What one listing says about each object, by its path below the place."""
        return {path: described(f"{self.url}/{path}", info) for path, info in self._found().items()}

    def _found(self) -> dict[str, dict[str, Any]]:
        with self._failures():
            return in_store(self.url, _infos)

    def open(self, path: str) -> IO[bytes]:
        """Opens one object; each read is a request for a range."""
        with self._failures():
            file: IO[bytes] = in_store(self.url, lambda base: base.joinpath(*path.split("/")).open("rb"))
        return file

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each store's package raises its own kinds of errors
            raise PermanentSourceError(
                f"describe {redact(self.url)}",
                found=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                expected="a place that can be listed",
            ) from error


def _infos(base: UPath) -> dict[str, dict[str, Any]]:
    """What the store says about each file below a prefix, by its path below the prefix."""
    start = base.path.rstrip("/")
    found = base.fs.find(start, maxdepth=DEPTH, detail=True)
    return {str(path).removeprefix(start).strip("/"): info for path, info in found.items()}


def open_place(where: str) -> Place:
    """The place of a path or a URL."""
    from laion_assets.describe.hub import HubPlace
    from laion_assets.describe.web import WebPlace

    scheme = urlsplit(where).scheme if "://" in where else ""
    if scheme in ("http", "https"):
        return WebPlace(where)
    if scheme == "hf":
        return HubPlace(where)
    return LocalPlace(local_folder(where)) if scheme in ("", "file") else StoredPlace(where)


def _refuse_many(url: str, found: list[str]) -> None:
    if len(found) > MOST_FILES:
        raise PermanentSourceError(
            f"describe {redact(url)}",
            found=f"more than {MOST_FILES:,} files",
            expected="the folder of one dataset",
            advice="name the folder that has its img_emb, text_emb and metadata",
        )
