"""One file from an object store, or from any other place that fsspec reads (`s3://`, `gs://`, `memory://`, …).

The file is read through universal-pathlib, in blocks. A partial file is continued if URL, size and ETag (or date) are
the same, or from another URL if the manifest has a SHA-256. `http` handles HTTP; `mirrors` decides whether to try
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from socket import gaierror
from typing import TYPE_CHECKING, Any, TypeVar

from laion_assets.errors import PermanentSourceError, SourceError, UnreachableSourceError
from laion_assets.redact import redact, redact_chain, redact_text
from laion_assets.source.fetch_limits import Pace
from laion_assets.source.mirrors import Arrival
from laion_assets.source.partial import Origin, PartialFile
from laion_assets.source.reading import BLOCK_BYTES, LASTING, pieces, require_same
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile
from laion_assets.waiting import reporting_silence, waiting

if TYPE_CHECKING:
    from upath import UPath

Result = TypeVar("Result")

ETAG_KEYS = ("ETag", "etag", "md5Hash", "md5", "generation")
DATE_KEYS = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")
"""Keys by which fsspec's file systems give the version of a file (S3, Azure, Google, SFTP, memory)."""

WITHOUT_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
"""Names of boto's and Google's errors for it; their packages may not be installed."""

NOT_REACHED = ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectError")
"""Errors of botocore, aiohttp and httpx if a host cannot be connected to: an unknown name or a closed port."""


class ObjectFile:
    """One file of an object store, or of any other place that fsspec reads."""

    def __init__(self, url: str, folder: str, wanted: WantedFile) -> None:
        """Raises `PermanentSourceError` if the package for such URLs is missing."""
        # A key may have # or ? in it, which are a fragment or a query in the base URL alone.
        self.url = "/".join(part for part in (redact(url).rstrip("/"), folder, wanted.remote_path) if part)
        self._wanted = wanted
        self._subject = f"{wanted.subject} from {self.url}"
        self._base = url
        self._parts = [part for part in (*folder.split("/"), *wanted.remote_path.split("/")) if part]

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:
        """Completes `partial`, from its end if it is a part of this same file. Raises `SourceError`, `StoreError`."""
        with self._failures(), waiting(f"an answer: {self._subject}", pace.seconds_left):
            path, facts = self._look()
        origin = self._origin(facts)
        first = partial.size if self._continues(partial.origin, origin) else 0
        blocks = reporting_silence(self._blocks(path, first), self._subject, pace.seconds_left)
        partial.receive(origin, blocks, pace, restart=first == 0)
        return Arrival(self.url, origin.etag, remote=_remote(origin))

    def observe(self) -> RemoteFile:
        """Size, ETag and date, as far as the store gives them. Raises `PermanentSourceError`, `SourceError`."""
        with self._failures():
            return _remote(self._origin(self._look()[1]))

    def read_range(self, first: int, end: int, pinned: RemoteFile, seconds_left: float) -> Iterator[bytes]:
        """The bytes from `first` to `end` of the file that `observe` described. Raises `SourceError`, also for another.

        s3fs sends If-Match; with other stores the file is described once more and compared.
        """
        with self._failures():
            path, _ = self._look()
            with path.open("rb", block_size=BLOCK_BYTES, cache_type="none") as file:
                file.seek(first)
                yield from reporting_silence(pieces(file, end - first), self._subject, seconds_left)
        require_same(self._wanted, pinned, self.observe())

    def names_beside(self) -> list[str]:
        """Names in the same folder. Raises the errors of the store's package."""
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
        return Origin(found.url, found.etag, found.modified, found.size, found)

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
        """Turns errors of the store's package, which have many kinds, into our own; our own errors pass unchanged."""
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
    """What `use` returns for the prefix of an object store. Raises the errors of the store's package.

    A public S3 bucket can be read without credentials.
    """
    from upath import UPath

    try:
        return use(UPath(url))
    except Exception as error:
        if type(error).__name__ != "NoCredentialsError" or not url.startswith("s3://"):
            raise
    return use(UPath(url, anon=True))


def described(url: str, facts: Mapping[str, Any]) -> RemoteFile:
    """What fsspec says about a file, with the keys of any file system."""
    size = facts.get("size")
    etag, modified = (
        next((str(facts[key]) for key in keys if facts.get(key)), None) for keys in (ETAG_KEYS, DATE_KEYS)
    )
    return RemoteFile(url, size if isinstance(size, int) else None, etag, modified)


def _remote(origin: Origin) -> RemoteFile:
    return RemoteFile(origin.url, origin.total, origin.etag, origin.modified)
