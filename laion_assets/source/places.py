"""Where each file of a shard may be: URLs and paths from the settings' sources. It does not ask whether it is there."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from laion_assets.dataset import user_path
from laion_assets.errors import SettingsError
from laion_assets.redact import redact
from laion_assets.settings import Settings
from laion_assets.source.client import SourceClient
from laion_assets.source.credentials import Credentials
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.folder import LocalFile
from laion_assets.source.http import HttpFile
from laion_assets.source.hub import HubRepository, is_hub, pinned
from laion_assets.source.mirrors import Source
from laion_assets.source.object_store import ObjectFile
from laion_assets.source.row_groups import SlicedFile
from laion_assets.source.wanted import WantedFile
from laion_assets.source_layout import SourceLayout


class ShardPlaces:
    """The sources of a shard's files, and the HTTP client that they share. Close it after use."""

    def __init__(self, settings: Settings, limits: FetchLimits, transfer: ShardTransfer) -> None:
        self._settings = settings
        self._limits = limits
        self._transfer = transfer
        self._client: SourceClient | None = None

    def of(self, wanted: WantedFile) -> list[Source]:
        """The places of one file, in the order in which to try them. Raises `SettingsError`."""
        return [self._source(place, wanted) for place in self._settings.sources]

    def stop(self) -> None:
        """Ends all transfers in other threads."""
        self._transfer.stop.set()
        if self._client is not None:
            self._client.interrupt()

    def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            self._client.close()

    def _source(self, place: SourceLayout, wanted: WantedFile) -> Source:
        whole = self.whole(place, wanted)
        return whole if wanted.slice is None else SlicedFile(whole, wanted)

    def whole(self, place: SourceLayout, wanted: WantedFile) -> HttpFile | LocalFile | ObjectFile:
        """The file at one place that is the wanted file, or contains the wanted share."""
        folder = place.folders.of(wanted.kind).strip("/")
        scheme = urlsplit(place.url).scheme if "://" in place.url else ""
        if scheme in ("http", "https", "hf"):
            if self._client is None:
                self._client = SourceClient(
                    self._limits, self._settings.http_ca_file, self._transfer.stop, Credentials.of(self._settings)
                )
            if is_hub(place.url):
                listing = self._settings.dataset.listing
                source = place.url if listing is None else pinned(place.url, listing.source)
                url = HubRepository.of(source).file_url(folder, wanted.remote_path)
            else:
                url = file_url(place.url, folder, wanted.remote_path)
            return HttpFile(url, wanted, self._client, self._limits)
        if scheme in ("", "file"):
            return LocalFile(local_folder(place.url) / folder / wanted.remote_path, wanted)
        return ObjectFile(place.url, folder, wanted)


def file_url(base: str, folder: str, name: str) -> str:
    """The URL of a file below `base`; the query of `base` (perhaps an access token) stays at the end."""
    rest, mark, query = base.partition("#")[0].partition("?")
    return "/".join([rest.rstrip("/"), *(quote(part) for part in (folder, name) if part)]) + mark + query


def local_folder(source: str) -> Path:
    """The folder of a path (relative to the working folder, `~` is the home) or a file URL. Raises `SettingsError`."""
    if "://" not in source:
        return user_path(source).absolute()
    parts = urlsplit(source)
    if parts.netloc not in ("", "localhost"):
        raise SettingsError(
            f"LAION_SOURCE {redact(source)}",
            found=f"{parts.netloc!r} as the host of a file URL",
            expected="none, as in file:///folder, with three slashes",
        )
    return Path(unquote(parts.path))
