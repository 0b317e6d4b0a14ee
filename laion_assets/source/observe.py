"""What the sources say about a shard's files, and the shard's data version from that. It fetches nothing."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import partial as bind

from laion_assets.file_layout import FileKind
from laion_assets.listing import is_other
from laion_assets.settings import Settings
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import LogCallback, ShardTransfer
from laion_assets.source.mirrors import Mirrors
from laion_assets.source.places import ShardPlaces
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.side_by_side import side_by_side
from laion_assets.source.versions import shard_version
from laion_assets.source.wanted import WantedFile, wanted_files

OBSERVE_TRIES = 3
OBSERVE_SECONDS = 120.0
"""Limits of an observation. It will be made again anyway, so it gives up earlier than a fetch."""

RELOCK = (
    "`laion-assets describe FILE.toml --lock --check` lists what has changed, and without --check takes the new listing"
)


def observe_shard(settings: Settings, shard: int, *, log: LogCallback | None = None) -> dict[FileKind, RemoteFile]:
    """What the first source that has each of a shard's files says about it; nothing is fetched.

    Raises `SourceError`, `PermanentSourceError`, `DatasetError` and `SettingsError` as `fetch_shard` does.
    """
    return _observe(settings, shard, log)[0]


def observe_version(settings: Settings, shard: int, before: str | None) -> str:
    """The shard's data version, where `before` is the one that was recorded last: see `versions.shard_version`.

    Raises as `observe_shard` does.
    """
    found, urls = _observe(settings, shard, None)
    return shard_version(found, before, urls)


def _observe(
    settings: Settings, shard: int, log: LogCallback | None
) -> tuple[dict[FileKind, RemoteFile], frozenset[str]]:
    """What is said about each file, and the URLs at which the files may be."""
    settings.dataset.shard_number(str(shard))
    limits = FetchLimits.of(settings)
    limits = replace(
        limits,
        tries=min(limits.tries, OBSERVE_TRIES),
        file_seconds=min(limits.file_seconds, OBSERVE_SECONDS),
        unreachable_seconds=0.0,
    )
    files = wanted_files(settings, shard)
    transfer = ShardTransfer(f"shard {shard}", {file.name: file.expected_bytes for file in files}, log=log)
    with closing(ShardPlaces(settings, limits, transfer)) as places:
        sources = [places.of(file) for file in files]
        jobs = [
            bind(Mirrors(*each, limits, transfer).run, lambda source: source.observe())
            for each in zip(files, sources, strict=True)
        ]
        found = side_by_side(jobs, threads=settings.http_connections, stop=places.stop)
    urls = {source.url for each in sources for source in each} | {file.locked.url for file in files if file.locked}
    return (
        {file.kind: _as_locked(file, remote, transfer) for file, remote in zip(files, found, strict=True)},
        frozenset(urls),
    )


def _as_locked(wanted: WantedFile, remote: RemoteFile, transfer: ShardTransfer) -> RemoteFile:
    """The observed file. If it differs from the lock file's, the difference is logged and the locked file returned."""
    locked = wanted.locked
    if locked is None or not is_other(locked, remote):
        return remote
    transfer.say(f"{wanted.subject}: {remote.url} has {remote.version}, the lock file has {locked.version}: {RELOCK}")
    return RemoteFile(locked.url, locked.size, locked.etag, locked.modified)
