"""One file from a folder on this machine, which is linked into the store. `mirrors` decides whether to try again.

A file of a local folder gets a hard link in the store, which takes no space and no time. After the merge the store may
delete its link, and the original stays: a file exists as long as it has one name. A hard link is safer than a symbolic
one: if the original is removed or replaced, the store still has the bytes that were checked. If the folder is on
another disk, or the system forbids hard links (to files of other users), the link is symbolic. Deleting it also leaves
the original, but the original must stay until the merge is done.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.shard.files import sync_folder
from laion_assets.source.failures import WrongFileError
from laion_assets.source.fetch_limits import Pace
from laion_assets.source.mirrors import Arrival
from laion_assets.source.partial import PartialFile, temporary_link
from laion_assets.source.reading import LASTING, pieces, require_same
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import WantedFile, check_file

NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""No hard link: another disk, a file of another user (fs.protected_hardlinks), or a file system without hard links."""


class LocalFile:
    """One file of a folder on this machine."""

    def __init__(self, path: Path, wanted: WantedFile) -> None:
        self.url = str(path)
        self.path = path
        self._wanted = wanted

    def fetch(self, partial: PartialFile, pace: Pace) -> Arrival:  # noqa: ARG002 - a link takes no time
        """Checks the file and links it to its final name. Raises `SourceError` and its kinds, `StoreError`."""
        with self._failures():
            original = self._original()
            try:
                check_file(self._wanted, original, self.url, pause=partial.transfer.check_stop)
            except WrongFileError as error:
                raise PermanentSourceError(error.subject, found=error.found, expected=error.expected) from error
            remote = self.observe()
            size = original.stat().st_size
        partial.discard()
        with partial.disk_errors():
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
            yield from pieces(file, end - first)
        require_same(self._wanted, pinned, self.observe())

    def _original(self) -> Path:
        """The file that the path leads to. A pipe or a device is refused: reading it might never end."""
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
    """Gives `original` the additional name `final`, replacing an old file: by a hard link, else a symbolic one.

    `original` is an absolute path and not a link. Raises `OSError`.
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
    # If both names already are links to the same file, replacing does nothing and leaves this link (POSIX rename).
    temporary.unlink(missing_ok=True)
    sync_folder(final.parent)
