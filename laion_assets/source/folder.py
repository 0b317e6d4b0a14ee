"""One file from a folder on this machine, which is linked, or from an object store, which is streamed.

HTTP is `http`'s business, and whether to try again `mirrors`'s.

A file of a local folder gets a hard link in the store, so that it takes no space and no time. The store may delete its
name after the merge, and the original stays: a file lives as long as one name of it. Of the two kinds of link the hard
one is the safer: when the original is removed or replaced, the store still has the bytes that were checked. Where the
folder lies on another disk, or the system forbids hard links (files of other users), it is a symbolic link; deleting
that leaves the original alone, too, but the original must then stay until the merge is done.

Everything else that fsspec knows (`s3://`, `gs://`, `memory://`, …) is read through universal-pathlib, in blocks. A
partial file is continued if URL, size and ETag (or date) are the same; from another URL if the manifest has a SHA-256.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import gaierror
from typing import IO, TYPE_CHECKING, Any, TypeVar

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.redact import redact, redact_chain, redact_text
from laion_assets.shard.files import sync_folder
from laion_assets.source.failures import WrongFileError
from laion_assets.source.mirrors import Arrival, RemoteFile
from laion_assets.source.partial import Origin, PartialFile, temporary_link
from laion_assets.source.transfer import Pace
from laion_assets.source.wanted import WantedFile, check_file
from laion_assets.waiting import telling_silence, waiting

if TYPE_CHECKING:
    from upath import UPath

Result = TypeVar("Result")

BLOCK_BYTES = 8 << 20
"""One request to an object store fetches so much: S3 gives a connection its full speed from about this size on."""

NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""Another disk, a file of another user (fs.protected_hardlinks), or a file system without hard links."""

ETAG_KEYS = ("ETag", "etag", "md5Hash", "md5", "generation")
DATE_KEYS = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
"""Under these names fsspec's file systems say which version of a file there is (S3, Azure, Google, SFTP, memory)."""

LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ImportError, ValueError)
"""Errors that trying again does not help; `ValueError` is fsspec's word for a kind of URL that it does not know."""

WITHOUT_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
"""boto's and Google's names for it; those packages may not be installed."""


class LocalFile:
    """One file of a folder on this machine."""

    def __init__(self, path: Path, wanted: WantedFile) -> None:
        self.url = str(path)
        self.path = path
        self._wanted = wanted

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:  # noqa: ARG002 - a link takes no time
        """Check the file and link it into its final place. Raises `SourceError` and its kinds, `StoreError`."""
        with self._failures():
            original = self._original()
            try:
                check_file(self._wanted, original, self.url, pause=partial.transfer.check_stop)
            except WrongFileError as error:
                raise PermanentSourceError(error.subject, found=error.found, expected=error.expected) from error
            remote = self.observe()
            size = original.stat().st_size
        partial.discard()
        with partial.storing():
            link(original, partial.final)
        partial.transfer.expect(self._wanted.name, size)
        partial.transfer.moved(self._wanted.name, size)
        return Arrival(self.url, linked=True, remote=remote)

    def observe(self) -> RemoteFile:
        """Size and time of change, in nanoseconds. Raises `PermanentSourceError`, `SourceError`."""
        with self._failures():
            facts = self._original().stat()
        return RemoteFile(self.url, facts.st_size, None, str(facts.st_mtime_ns))

    def read_range(self, first: int, end: int, pinned: RemoteFile, _seconds_left: float) -> Iterator[bytes]:
        """The bytes from `first` to `end` of the file that `observe` described. Raises `SourceError`."""
        with self._failures(), self._original().open("rb") as file:
            file.seek(first)
            yield from _pieces(file, end - first)
        _require_same(self._wanted, pinned, self.observe())

    def _original(self) -> Path:
        """The file that the path leads to. A pipe or a device is refused: whoever opens it waits, or reads for ever."""
        original = self.path.resolve(strict=True)
        if not original.is_file():
            raise PermanentSourceError(
                f"{self._wanted.subject} from {self.url}", found="a folder, a pipe or a device", expected="a file"
            )
        return original

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = PermanentSourceError if isinstance(error, LASTING) else SourceError
            raise kind(f"{self._wanted.subject} from {self.url}", found=error.strerror or str(error)) from error


def link(original: Path, final: Path) -> None:
    """Give `original` the further name `final`, in place of what had it: a hard link, else a symbolic one.

    `original` is absolute and no link itself. Raises `OSError`.
    """
    temporary = temporary_link(final)
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(original)
    except OSError as error:
        if error.errno not in NO_HARD_LINK:
            raise
        temporary.symlink_to(original)
    temporary.replace(final)
    # When both names were links to one file already, replacing does nothing and leaves this one (POSIX rename).
    temporary.unlink(missing_ok=True)
    sync_folder(final.parent)


NOT_REACHED = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectError")
"""What botocore, aiohttp and httpx raise where a host cannot be connected to: an unknown name or a closed port."""


class StoredFile:
    """One file of an object store, or of any other place that fsspec reads."""

    def __init__(self, url: str, folder: str, wanted: WantedFile) -> None:
        """Raises `PermanentSourceError` when no package for such URLs is there."""
        self.url = redact("/".join(part for part in (url.rstrip("/"), folder, wanted.remote_path) if part))
        self._wanted = wanted
        self._subject = f"{wanted.subject} from {self.url}"
        self._base = url
        self._parts = [part for part in (*folder.split("/"), *wanted.remote_path.split("/")) if part]

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:
        """Complete `partial`, from its end if it is a part of this very file. Raises `SourceError`, `StoreError`."""
        with self._failures(), waiting(f"an answer: {self._subject}", pace.seconds_left):
            path, facts = self._look()
        origin = self._origin(facts)
        first = partial.size if self._continues(partial.origin, origin) else 0
        blocks = telling_silence(self._blocks(path, first), self._subject, pace.seconds_left)
        partial.receive(origin, blocks, pace, restart=first == 0)
        return Arrival(self.url, origin.etag, remote=_remote(origin))

    def observe(self) -> RemoteFile:
        """Size, ETag and date, as far as the store says them. Raises `PermanentSourceError`, `SourceError`."""
        with self._failures():
            return _remote(self._origin(self._look()[1]))

    def read_range(self, first: int, end: int, pinned: RemoteFile, seconds_left: float) -> Iterator[bytes]:
        """The bytes from `first` to `end` of the file that `observe` described. Raises `SourceError`, also for another.

        s3fs asks with If-Match; for others the file is looked at once more.
        """
        with self._failures():
            path, _ = self._look()
            with path.open("rb", block_size=BLOCK_BYTES, cache_type="none") as file:
                file.seek(first)
                yield from telling_silence(_pieces(file, end - first), self._subject, seconds_left)
        _require_same(self._wanted, pinned, self.observe())

    def names_beside(self) -> list[str]:
        """Names of what lies in the same folder. Raises what the store's package raises."""
        beside = self._parts[:-1]
        return in_store(self._base, lambda base: [path.name for path in base.joinpath(*beside).iterdir()])

    def _look(self) -> tuple[UPath, dict[str, Any]]:
        def look(base: UPath) -> tuple[UPath, dict[str, Any]]:
            path = base.joinpath(*self._parts)
            path.fs.invalidate_cache()
            return path, dict(path.fs.info(path.path))

        return in_store(self._base, look)

    def _origin(self, facts: dict[str, Any]) -> Origin:
        found = described(self.url, facts)
        return Origin(found.url, found.etag, found.modified, found.size)

    def _continues(self, old: Origin | None, new: Origin) -> bool:
        if old is None or old.total is None or old.total != new.total:
            return False
        if old.url == new.url and (old.etag or old.modified):
            return (old.etag, old.modified) == (new.etag, new.modified)
        return self._wanted.sha256 is not None

    def _blocks(self, path: UPath, first: int) -> Iterator[bytes]:
        with self._failures(), path.open("rb", block_size=BLOCK_BYTES) as file:
            file.seek(first)
            while block := file.read(BLOCK_BYTES):
                yield block

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the store's package raises, each its own kinds, into ours; our own pass."""
        try:
            yield
        except SourceError:
            raise
        except Exception as error:
            redact_chain(error)
            raise _kind_of(error)(
                self._subject,
                found=f"{type(error).__name__}: {redact_text(str(error))}",
                advice="for s3:// install laion_assets[s3]" if isinstance(error, ImportError) else "",
            ) from error


def _kind_of(error: Exception) -> type[SourceError]:
    if isinstance(error, LASTING) or type(error).__name__ in WITHOUT_CREDENTIALS:
        return PermanentSourceError
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(
        isinstance(each, gaierror | ConnectionRefusedError) or type(each).__name__ in NOT_REACHED for each in causes
    ):
        return UnreachableSourceError
    return SourceError


def in_store(url: str, use: Callable[[UPath], Result]) -> Result:
    """What `use` returns for the prefix of an object store. Raises what the store's package raises.

    Whoever has no credentials for S3 may still read a public bucket.
    """
    from upath import UPath

    try:
        return use(UPath(url))
    except Exception as error:
        if type(error).__name__ != "NoCredentialsError" or not url.startswith("s3://"):
            raise
    return use(UPath(url, anon=True))


def described(url: str, facts: Mapping[str, Any]) -> RemoteFile:
    """What fsspec says of a file, whichever file system's words it uses."""
    size = facts.get("size")
    etag, modified = (
        next((str(facts[key]) for key in keys if facts.get(key)), None) for keys in (ETAG_KEYS, DATE_KEYS)
    )
    return RemoteFile(url, size if isinstance(size, int) else None, etag, modified)


def _pieces(file: IO[bytes], count: int) -> Iterator[bytes]:
    """The next bytes of a file, in blocks; fewer where it ends."""
    while count and (block := file.read(min(count, BLOCK_BYTES))):
        count -= len(block)
        yield block


def _require_same(wanted: WantedFile, pinned: RemoteFile, now: RemoteFile) -> None:
    if pinned != now:
        raise SourceError(
            f"{wanted.subject} from {now.url}", found=f"{now.version}", expected=f"{pinned.version}, as before"
        )


def _remote(origin: Origin) -> RemoteFile:
    return RemoteFile(origin.url, origin.total, origin.etag, origin.modified)
