"""Fetches the files of one shard into one folder, from any of its sources. `http` and `folder` fetch single files.

It does not read what is in the files, and does not remove them once they are merged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path

from laion_assets.errors import PermanentSourceError, SettingsError, SourceError
from laion_assets.file_layout import FileKind
from laion_assets.listing import FileFacts, is_other, is_surely_same
from laion_assets.redact import redact
from laion_assets.settings import Settings
from laion_assets.shard.lock import file_lock
from laion_assets.source.failures import WrongFileError, reason
from laion_assets.source.fetch_limits import FetchLimits, Pace
from laion_assets.source.fetch_progress import LogCallback, ProgressCallback, ShardTransfer
from laion_assets.source.folder import LocalFile
from laion_assets.source.mirrors import Arrival, Mirrors, Source
from laion_assets.source.missing import with_near_misses
from laion_assets.source.observe import OBSERVE_SECONDS, RELOCK
from laion_assets.source.one_release import OneRelease
from laion_assets.source.origin_note import read_origin, write_origin
from laion_assets.source.partial import PartialFile
from laion_assets.source.places import ShardPlaces
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.side_by_side import side_by_side
from laion_assets.source.wanted import WantedFile, check_file, wanted_files

AGAIN = "it is fetched again"


BRIEF = FetchLimits(connect_seconds=5.0, read_seconds=5.0)
"""Limits for the names beside a missing file. These names only add to an error, so it does not wait for them."""


@dataclass(frozen=True)
class FetchedFile:
    """A file that is complete and checked in the store.

    `url` is where it came from, without secrets, or its own path if it was there before. `bytes` is its size,
    `bytes_fetched` the bytes that came over the network this time, `tries` the tries this time, 0 for none. `linked`
    says that it shares its bytes with a file elsewhere on this machine.
    """

    kind: FileKind
    path: Path
    url: str
    bytes: int
    bytes_fetched: int
    tries: int
    seconds: float
    etag: str | None
    linked: bool


def fetch_shard(
    settings: Settings,
    shard: int,
    folder: Path,
    *,
    progress: ProgressCallback | None = None,
    log: LogCallback | None = None,
    limits: FetchLimits | None = None,
) -> list[FetchedFile]:
    """Fetches a shard's files into `folder` (made if necessary), under the dataset's names, in its order of kinds.

    At most `settings.http_connections` files are fetched at the same time. A file that exists already and passes the
    same checks is not fetched again, unless its source says that it has changed (size, ETag or date). Of two runs for
    one shard the second waits, and then finds the files complete. After an interrupt or an error the bytes that came
    are kept, and the next run continues there. All files come from one source, if one has them all (`one_release`).

    Raises `SourceError` if no source gives a file within the tries and the time, `UnreachableSourceError` if none could
    be reached, `PermanentSourceError` if all refused for good, `StoreError` if the disk cannot be written or has too
    little space, `DatasetError` if there is no such shard, and `SettingsError` for an invalid manifest, CA file or
    source.
    """
    settings.dataset.shard_number(str(shard))
    limits = limits or FetchLimits.of(settings)
    files = wanted_files(settings, shard)
    transfer = ShardTransfer(
        f"shard {shard}", {file.name: file.expected_bytes for file in files}, progress=progress, log=log
    )
    # The run that holds the lock may fetch its files one after the other, each for its full time.
    wait_seconds = limits.file_seconds * len(files)
    with closing(ShardPlaces(settings, limits, transfer)) as places:
        sources = [places.of(file) for file in files]
        _refuse_own_folder(sources, folder)
        lock, subject = folder / f".{shard}.lock", f"shard {shard} in {folder}"
        with file_lock(lock, subject, wait_seconds=wait_seconds, say=transfer.say):
            release = OneRelease(settings, files, sources, folder)
            sources = release.in_order(limits, transfer)
            jobs = [bind(fetch_file, *each, folder, limits, transfer) for each in zip(files, sources, strict=True)]
            try:
                fetched = side_by_side(jobs, threads=settings.http_connections, stop=places.stop)
            except PermanentSourceError as error:
                raise _with_near_misses(error, settings, files) from error
            release.require(transfer)
            return fetched


def _with_near_misses(error: PermanentSourceError, settings: Settings, files: list[WantedFile]) -> PermanentSourceError:
    """The error, with similar names beside the missing file. The places are opened again: the fetch closed them."""
    with closing(ShardPlaces(settings, BRIEF, ShardTransfer("", {}))) as places:
        return with_near_misses(error, settings.dataset, files, [places.of(file) for file in files])


def fetch_file(
    wanted: WantedFile, sources: Sequence[Source], folder: Path, limits: FetchLimits, transfer: ShardTransfer
) -> FetchedFile:
    """Fetches one file into `folder`, which exists and is locked, from the first of `sources` that gives it.

    Raises `SourceError`, `PermanentSourceError` and `StoreError` as `fetch_shard` does, and `StoppedError` if
    `transfer` is stopped.
    """
    started = time.monotonic()
    partial = PartialFile(folder, wanted, transfer)
    mirrors = Mirrors(wanted, sources, limits, transfer, partial)
    arrival = _fetched_before(partial, sources, limits) or _complete(partial, sources, limits)
    if arrival is None:
        arrival = mirrors.run(bind(_take, partial, Pace(wanted.subject, limits)))
    transfer.moved(wanted.name, 0, report=True)
    return FetchedFile(
        kind=wanted.kind,
        path=partial.final,
        url=arrival.url,
        bytes=partial.final.stat().st_size,
        bytes_fetched=partial.received,
        tries=mirrors.tries,
        seconds=time.monotonic() - started,
        etag=arrival.etag,
        linked=arrival.linked,
    )


def _take(partial: PartialFile, pace: Pace, source: Source) -> Arrival:
    """Makes one try at one source."""
    pace.begin()
    wanted = partial.wanted
    if wanted.locked is not None:
        _require_locked(wanted, source.observe())
    arrival = source.fetch(partial, pace)
    if arrival.remote is not None and wanted.locked is not None:
        try:
            _require_locked(wanted, arrival.remote)
        except PermanentSourceError:
            partial.discard()
            raise
    if not arrival.linked:
        partial.finish(arrival.remote)
    elif arrival.remote is not None:
        with partial.disk_errors():
            write_origin(partial.final, arrival.remote)
    return arrival


def _require_locked(wanted: WantedFile, remote: RemoteFile) -> None:
    """Raises `PermanentSourceError` for another file than the locked one, since another mirror may have it."""
    locked = wanted.locked
    if locked is not None and is_other(locked, remote):
        raise PermanentSourceError(
            f"{wanted.subject} from {remote.url}",
            found=remote.version,
            expected=f"{locked.version}, as the lock file says",
            advice=RELOCK,
        )


def _fetched_before(partial: PartialFile, sources: Sequence[Source], limits: FetchLimits) -> Arrival | None:
    """The file, if it has its final name, is the wanted one, and its source has not changed it."""
    final, wanted, transfer = partial.final, partial.wanted, partial.transfer
    with partial.disk_errors():
        if not final.exists():
            return None
        try:
            check_file(wanted, final, str(final), pause=transfer.check_stop)
        except WrongFileError as error:
            transfer.say(f"{error.subject}: {reason(error)}; it is fetched again")
            return None
        facts = final.stat()
        then = read_origin(final) or (None if partial.size else partial.left_from())
    if then is not None and _has_another(partial, sources, limits, then):
        return None
    partial.discard()
    transfer.expect(wanted.name, facts.st_size)
    transfer.moved(wanted.name, facts.st_size)
    return Arrival(str(final), linked=final.is_symlink() or facts.st_nlink > 1)


def _has_another(partial: PartialFile, sources: Sequence[Source], limits: FetchLimits, then: RemoteFile) -> bool:
    """Whether the first source that answers has another file than `then`, the store's. Each source is asked once.

    If the manifest has a SHA-256, the file is known to be right. If no source can be asked, a file of these sources
    stays. A file of any other source counts as another one, also if it has the same size.
    """
    wanted, transfer = partial.wanted, partial.transfer
    if wanted.sha256 is not None and wanted.locked is None:
        return False
    strange = _is_strange(wanted, sources, then)
    if wanted.locked is not None:
        # The lock file decides which file it must be, whatever the source has now.
        if not is_other(wanted.locked, then) and (not strange or is_surely_same(wanted.locked, then)):
            return False
        said = f"the store has {then.version}, the lock file has {wanted.locked.version}"
        transfer.say(f"{wanted.subject}: {said}; {AGAIN}")
        return True
    return _differs(partial, sources, limits, then, strange=strange)


def _differs(
    partial: PartialFile, sources: Sequence[Source], limits: FetchLimits, then: RemoteFile, *, strange: bool
) -> bool:
    """Whether the first source that answers has another file than `then`, which came from none of them if `strange`."""
    wanted, transfer = partial.wanted, partial.transfer
    hasty = replace(limits, tries=1, file_seconds=min(limits.file_seconds, OBSERVE_SECONDS), unreachable_seconds=0.0)
    try:
        now = Mirrors(wanted, sources, hasty, transfer).run(lambda source: source.observe())
    except SourceError as error:
        if strange:
            transfer.say(
                f"{wanted.subject}: the store's file is from {then.url}, which is not one of the sources; {AGAIN}"
            )
            return True
        transfer.say(f"{wanted.subject}: the file of the store is used, since it cannot be compared: {error}")
        return False
    if not is_other(then, now) and (not strange or is_surely_same(then, now)):
        return False
    whose = f"{then.version} of {then.url}" if strange else then.version
    transfer.say(f"{wanted.subject}: {now.url} has {now.version}, the store has {whose}; {AGAIN}")
    return True


def _is_strange(wanted: WantedFile, sources: Sequence[Source], then: FileFacts) -> bool:
    """Whether a file of the store came from none of the sources, as after LAION_SOURCE was set to another dataset."""
    return then.url not in {source.url for source in sources} | {wanted.locked.url if wanted.locked else ""}


def _complete(partial: PartialFile, sources: Sequence[Source], limits: FetchLimits) -> Arrival | None:
    """The file, if an earlier run ended between its last byte and its final name, and its source has not changed it.

    The same rules apply as to a file with its final name: a run may have ended long ago.
    """
    origin, then = partial.origin, partial.left_from()
    if origin is None or then is None or not partial.is_complete:
        return None
    if _has_another(partial, sources, limits, then):
        partial.discard()
        return None
    try:
        partial.finish(then)
    except WrongFileError as error:
        partial.transfer.say(f"{error.subject}: {reason(error)}; it is fetched again")
        return None
    return Arrival(origin.url, origin.etag, remote=then)


def _refuse_own_folder(sources: list[list[Source]], folder: Path) -> None:
    """Refuses the store as its own source: after a merge the store removes raw files, which would be the only copy."""
    for source in (each for places in sources for each in places):
        if isinstance(source, LocalFile) and source.path.parent.resolve() == folder.resolve():
            raise SettingsError(
                f"LAION_SOURCE {redact(source.url)}",
                found="the store's own folder for raw files",
                expected="another folder: the store removes its raw files once they are merged",
            )
