"""A file that is being fetched: `NAME.part` beside its final name, and `NAME.part.json`, which describes its origin.

Both remain when the process ends, so that the next run can continue. `http` and `object_store` decide which bytes may
be continued; `lock` decides who may write.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from laion_assets.errors import SourceError
from laion_assets.shard.files import sync_folder
from laion_assets.shard.places import new_origin_path
from laion_assets.shard.store_errors import store_errors
from laion_assets.source.failures import WrongFileError
from laion_assets.source.fetch_limits import Pace
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.origin_note import write_origin
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile, check_file, check_size, check_start


@dataclass(frozen=True)
class Origin:
    """The file that bytes belong to: the URL as it may be shown, a strong ETag, a date or version, the size of all its
    bytes, which for a share of a file is that of the share.

    `remote` is all that the source said about its file, also weak ETags, and the size of the whole file. It decides
    whether a finished file is still the source's. None if an earlier version wrote the note.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    remote: RemoteFile | None = None


ORIGINS = TypeAdapter(Origin)


def temporary_link(final: Path) -> Path:
    """The name under which a link to a local file is made before it is renamed."""
    return final.with_name(f".{final.name}.link")


class PartialFile:
    """The existing part of one wanted file, until it gets its final name. One thread at a time uses it.

    `size` is the present size, `farthest` the largest size so far, `received` what this process received: all in bytes.
    """

    def __init__(self, folder: Path, wanted: WantedFile, transfer: ShardTransfer) -> None:
        """Finds what an earlier run left. Raises `StoreError` if the folder cannot be read or written."""
        self.wanted = wanted
        self.final = folder / wanted.name
        self.path = self.final.with_name(f"{wanted.name}.part")
        self.sidecar = self.final.with_name(f"{wanted.name}.part.json")
        self.transfer = transfer
        self._place = f"{wanted.subject} in {folder}"
        self.size = self.farthest = self.received = 0
        with self.disk_errors():
            self.origin = self._read_sidecar()
            self._grow(self.path.stat().st_size if self.path.exists() else 0)
        total = self.origin.total if self.origin else None
        contradicted = total is not None and (self.size > total or self.wanted.size not in (None, total))
        if self.origin is None or contradicted:
            self.discard()
        self.farthest = self.size

    @property
    def is_complete(self) -> bool:
        """Whether every byte is there, if the size is known."""
        return self.size > 0 and self.origin is not None and self.size == self.origin.total

    def left_from(self) -> RemoteFile | None:
        """The remote file that the existing bytes are of, as its source described it; None if it is unknown.

        A share's origin has the size of the share, which says nothing about the size of the file.
        """
        origin = self.origin
        if origin is None:
            return None
        if origin.remote is not None:
            return origin.remote
        size = None if self.wanted.slice else origin.total
        return RemoteFile(origin.url, size, origin.etag, origin.modified)

    def disk_errors(self) -> AbstractContextManager[None]:
        """The context in which an `OSError` is the store's."""
        return store_errors(self._place)

    def receive(self, origin: Origin, chunks: Iterator[bytes], pace: Pace, *, restart: bool) -> None:
        """Appends `chunks`, which come from `origin`, to the existing bytes; with `restart` it replaces them.

        Existing bytes are thrown away only when the new bytes start like such a file. Raises `SourceError` if fewer
        bytes come than were announced, `WrongFileError` if they are of another file, `StoreError` if the disk cannot be
        written, and the errors of `pace` and `chunks`. The bytes that came stay.
        """
        if origin.total is None:
            origin = replace(origin, total=self.wanted.size)
        else:
            check_size(self.wanted, origin.total, origin.url)
        start = self._start_of(origin, chunks, pace) if restart else b""
        # Checked before any change: a thread that a stop left behind may come here when another run has the lock.
        self.transfer.check_stop()
        with self._opened() as file:
            if restart:
                # The bytes are removed first: the note must never describe another origin's bytes, also after a crash.
                with self.disk_errors():
                    file.truncate(0)
                self._grow(-self.size)
            self._describe(origin)
            self._append(file, start)
            for chunk in chunks:
                self._append(file, chunk)
                self.received += len(chunk)
                pace.add(len(chunk), origin.url)
        self._check_length(origin)

    def finish(self, remote: RemoteFile | None) -> None:
        """Checks the whole file and gives it its final name, once its bytes are on the disk, and the note that it is
        of `remote`. The note beside the partial file is removed last: after a crash it says what the file is.

        Raises `WrongFileError` if it is not the wanted file (it is then thrown away) and `StoreError` if the disk
        cannot be written. An old file with the final name stays until the new file is complete.
        """
        assert self.origin is not None, "finish only after receive"
        with self.disk_errors():
            try:
                check_file(self.wanted, self.path, self.origin.url, pause=self.transfer.check_stop)
            except WrongFileError:
                self.discard()
                raise
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.transfer.check_stop()
            self.path.replace(self.final)
            sync_folder(self.final.parent)
            if remote is not None:
                write_origin(self.final, remote)
            self._forget()

    def discard(self) -> None:
        """Throws away the existing bytes. Raises `StoreError` if the disk cannot be written."""
        self.transfer.check_stop()
        with self.disk_errors():
            self.path.unlink(missing_ok=True)
            self._forget()
        self.origin = None
        self._grow(-self.size)

    def _forget(self) -> None:
        """Removes all notes beside the bytes, also unfinished ones of a killed process."""
        for path in (self.sidecar, self._new_sidecar, temporary_link(self.final), new_origin_path(self.final)):
            path.unlink(missing_ok=True)

    @property
    def _new_sidecar(self) -> Path:
        return self.sidecar.with_name(f"{self.sidecar.name}.new")

    def _start_of(self, origin: Origin, chunks: Iterator[bytes], pace: Pace) -> bytes:
        """The first chunks, enough to check that they are the start of a file of this kind."""
        start = b""
        for chunk in chunks:
            start += chunk
            self.received += len(chunk)
            pace.add(len(chunk), origin.url)
            if len(start) >= self.wanted.start_bytes:
                break
        check_start(self.wanted, start, origin.url, origin.total)
        return start

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The partial file, opened to append. Unbuffered: received bytes are in the file if the process dies."""
        with self.disk_errors():
            file = self.path.open("ab", buffering=0)
        try:
            yield file
        finally:
            with self.disk_errors():
                file.close()

    def _append(self, file: BinaryIO, chunk: bytes) -> None:
        self.transfer.check_stop()
        rest = memoryview(chunk)
        with self.disk_errors():
            while rest:
                written = file.write(rest)
                self._grow(written)
                rest = rest[written:]
        self.farthest = max(self.farthest, self.size)

    def _check_length(self, origin: Origin) -> None:
        if origin.total in (None, self.size):
            return
        size, subject = self.size, f"{self.wanted.subject} from {origin.url}"
        if size < (origin.total or 0):
            raise SourceError(subject, found=f"an end after {size} bytes", expected=f"{origin.total} bytes")
        self.discard()
        raise WrongFileError(subject, found=f"{size} bytes", expected=f"{origin.total} bytes, as was announced")

    def _describe(self, origin: Origin) -> None:
        """Writes down whose bytes these are, and checks that the disk has room for the rest."""
        self.origin = origin
        self.transfer.expect(self.wanted.name, origin.total or self.wanted.size, copied_to=self.final.parent)
        with self.disk_errors():
            self._new_sidecar.write_bytes(ORIGINS.dump_json(origin))
            self._new_sidecar.replace(self.sidecar)

    def _read_sidecar(self) -> Origin | None:
        try:
            return ORIGINS.validate_json(self.sidecar.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _grow(self, count: int) -> None:
        self.size += count
        self.transfer.moved(self.wanted.name, count)
