"""The two places that can hold a store's files, with one interface: a local folder, or a bucket with local copies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from laion_assets.errors import StoreError
from laion_assets.shard import bucket
from laion_assets.shard.files import Location, remove_file, replacing
from laion_assets.shard.store_errors import store_errors

if TYPE_CHECKING:
    from upath import UPath


class Place(Protocol):
    """What a store needs of the place that holds its files; every method may raise `StoreError`."""

    def location(self, *parts: str) -> Location:
        """The location of a file of the store."""

    def bring(self, file: Path, *, subject: str) -> None:
        """Makes `file`, a raw file on this machine, equal to the place's file, if the place has one."""

    def publish(self, file: Path, *, subject: str) -> None:
        """Puts `file`, with the note of its origin, into the place."""

    def drop_copy(self, file: Path) -> None:
        """Removes `file` if it is only a copy."""

    def remove(self, file: Path) -> int:
        """Removes `file` and the place's copy of it; returns the bytes that this freed in the place."""

    def replacing(self, location: Location, *, subject: str) -> AbstractContextManager[Path]:
        """Yields a path to write a file of the store to. If the block succeeds, that file replaces the old one."""


@dataclass(frozen=True)
class FolderPlace:
    """A folder of this machine: steps work on the raw files themselves."""

    folder: Path

    def location(self, *parts: str) -> Location:
        """A path below the folder."""
        return self.folder.joinpath(*parts)

    def bring(self, file: Path, *, subject: str) -> None:
        """Does nothing: there is no other copy."""

    def publish(self, file: Path, *, subject: str) -> None:
        """Does nothing: the file is already in its place."""

    def drop_copy(self, file: Path) -> None:
        """Does nothing: the file is not a copy."""

    def remove(self, file: Path) -> int:
        """Removes the file and the notes beside it; returns the bytes that this freed (0 for a link)."""
        return _remove_with_notes(file)

    def replacing(self, location: Location, *, subject: str) -> AbstractContextManager[Path]:
        """See `files.replacing`."""
        assert isinstance(location, Path)
        return replacing(location, subject=subject)


@dataclass(frozen=True)
class BucketPlace:
    """A bucket below `url`: files are uploaded as whole objects, and copied to `folder` for steps."""

    folder: Path
    url: str

    def location(self, *parts: str) -> Location:
        """An object below the URL."""
        return self._object(*parts)

    def bring(self, file: Path, *, subject: str) -> None:
        """Copies the object to `file`, unless the file is a copy of it already."""
        source = self._raw(file)
        upload = bucket.upload_of(source, subject=subject)
        if upload is None or upload == bucket.copy_of(file):
            return
        # The note beside the local file is not about the object; the object's own note comes with it.
        remove_file(origin_path(file))
        with replacing(file, subject=subject) as temporary:
            bucket.get(source, temporary, subject=subject)
        origin = bucket.note_of(source, subject=subject)
        if bucket.upload_of(source, subject=subject) != upload:
            remove_file(file)
            raise StoreError(subject, found="another file in its place while it was copied", advice="try it again")
        with store_errors(subject):
            if origin:
                origin_path(file).write_text(origin, encoding="utf-8")
            bucket.note_copy(file, upload)

    def publish(self, file: Path, *, subject: str) -> None:
        """Uploads `file` with the note of its origin, unless it is a copy of the object there."""
        target = self._raw(file)
        if bucket.copy_of(file) != (bucket.upload_of(target, subject=subject) or ""):
            origin = origin_path(file).read_text(encoding="utf-8") if origin_path(file).exists() else ""
            bucket.note_copy(file, bucket.put(file, target, subject=subject, note=origin))

    def drop_copy(self, file: Path) -> None:
        """Removes this machine's copy."""
        _remove_with_notes(file)

    def remove(self, file: Path) -> int:
        """Removes the object and the copy; returns the bytes of the object."""
        freed = remove_file(self._raw(file))
        _remove_with_notes(file)
        return freed

    @contextlib.contextmanager
    def replacing(self, location: Location, *, subject: str) -> Iterator[Path]:
        """The file is written below `folder`, and uploaded at the end."""
        assert not isinstance(location, Path)

        def publish(temporary: Path) -> None:
            bucket.put(temporary, location, subject=subject)

        with replacing(self.folder / "merged" / location.name, subject=subject, publish=publish) as temporary:
            yield temporary

    def _raw(self, file: Path) -> UPath:
        return self._object("raw", file.name)

    def _object(self, *parts: str) -> UPath:
        return bucket.bucket_path(self.url, *parts)


def _remove_with_notes(path: Path) -> int:
    """Removes a raw file with the notes beside it, which are useless without it; returns the bytes that this freed."""
    freed = remove_file(path)
    bucket.forget_copy(path)
    remove_file(origin_path(path))
    remove_file(new_origin_path(path))
    return freed


def origin_path(path: Path) -> Path:
    """The note beside a raw file that says which remote file it came from."""
    return path.with_name(f".{path.name}.origin.json")


def new_origin_path(path: Path) -> Path:
    """The name under which that note is written before it is renamed."""
    return path.with_name(f".{path.name}.origin.json.new")


def file_exists(location: Location) -> bool:
    """Whether a file of the store exists. Raises `StoreError` if a bucket does not answer."""
    return location.exists() if isinstance(location, Path) else bucket.exists(location, subject=str(location))


@contextlib.contextmanager
def readable(location: Location, *, subject: str) -> Iterator[Path | IO[bytes]]:
    """What pyarrow can read a file of the store from: its path, or an open object. Raises `StoreError`, `OSError`."""
    if isinstance(location, Path):
        yield location
    else:
        with bucket.opened(location, subject=subject) as file:
            yield file
