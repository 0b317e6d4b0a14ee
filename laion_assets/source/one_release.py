"""Takes all files of a shard from one source if one source has them all: two sources may have two releases.

If files come from two sources, the text vectors, a join or SHA-256 can tell whether they belong together: then the
mixture is only logged. Without any of these the shard is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from laion_assets.errors import PermanentSourceError, SourceError
from laion_assets.listing import is_other
from laion_assets.redact import redact
from laion_assets.settings import Settings
from laion_assets.shard.places import origin_path
from laion_assets.shard.store_errors import store_errors
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.mirrors import Mirrors, Source
from laion_assets.source.observe import OBSERVE_SECONDS
from laion_assets.source.origin_note import read_origin
from laion_assets.source.wanted import WantedFile


class OneRelease:
    """The files of one shard and the places where each may be.

    A place is one URL of the settings' sources, whatever folders are looked in there. `sources[n][m]` is file n in the
    layout m of the settings. Nothing is asked where there is one place or one file, or where every SHA-256 is known.
    """

    def __init__(
        self, settings: Settings, files: Sequence[WantedFile], sources: Sequence[Sequence[Source]], folder: Path
    ) -> None:
        self._files = files
        self._sources = sources
        self._folder = folder
        self._places = [redact(place.url) for place in settings.sources]
        dataset = settings.dataset
        proven = all(file.sha256 is not None for file in files)
        self._may_mix = len(set(self._places)) > 1 and len(files) > 1 and not proven
        self._checked = dataset.join is not None or (dataset.has_text and dataset.alignment == "check")

    def in_order(self, limits: FetchLimits, transfer: ShardTransfer) -> list[list[Source]]:
        """The sources of each file, first those of the place that has every file of the shard.

        Raw files of other places are removed where nothing could tell them from files of another release. Raises
        `StoreError`.
        """
        had = self._places_of_store()
        if not self._may_mix or (len(had) == len(self._files) and len({*had.values()}) == 1):
            return [list(each) for each in self._sources]
        # What is there already is used: a shard that is half fetched is completed at its own place.
        begun = {*had.values()} if len({*had.values()}) == 1 else set()
        order = sorted(dict.fromkeys(self._places), key=lambda place: place not in begun)
        whole = next((place for place in order if self._has_all(place, limits, transfer)), None)
        if whole is not None and not self._checked:
            for name in (name for name, place in had.items() if place != whole):
                transfer.say(
                    f"{name} came from {had[name]}, the other files come from {whole}: {name} is fetched again"
                )
                self._remove(name)
        return [
            [source for _, source in sorted(self._by_place(each), key=lambda pair: pair[0] != whole)]
            for each in self._sources
        ]

    def require(self, transfer: ShardTransfer) -> None:
        """Says so where the fetched files are of several places. Raises `PermanentSourceError` if nothing checks it."""
        had = self._places_of_store()
        if not self._may_mix or len({*had.values()}) < 2:
            return
        found = ", ".join(f"{name} from {place}" for name, place in had.items())
        subject = f"shard {self._files[0].shard}"
        if self._checked:
            transfer.say(f"{subject}: no source has every file: {found}")
            return
        raise PermanentSourceError(
            subject,
            found=f"{found}, and nothing in the files shows whether they belong to one release",
            expected="all files from one source, or their SHA-256",
            advice="set LAION_SOURCE to one source that has every file, or LAION_MANIFEST to the SHA-256 of the files",
        )

    def _by_place(self, sources: Sequence[Source]) -> list[tuple[str, Source]]:
        return list(zip(self._places, sources, strict=True))

    def _has_all(self, place: str, limits: FetchLimits, transfer: ShardTransfer) -> bool:
        """Whether a place says that it has every file. Each of its layouts is asked once."""
        hasty = replace(
            limits, tries=1, file_seconds=min(limits.file_seconds, OBSERVE_SECONDS), unreachable_seconds=0.0
        )
        for file, sources in zip(self._files, self._sources, strict=True):
            here = [source for at, source in self._by_place(sources) if at == place]
            try:
                remote = Mirrors(file, here, hasty, transfer).run(lambda source: source.observe())
            except SourceError as error:
                transfer.say(f"{file.subject}: not at {place}: {error}")
                return False
            if file.locked is not None and is_other(file.locked, remote):
                return False
        return True

    def _places_of_store(self) -> Mapping[str, str]:
        """Place by name of the files that are in the store and came from a place of the settings."""
        had = {}
        for file, sources in zip(self._files, self._sources, strict=True):
            final = self._folder / file.name
            with store_errors(file.subject):
                origin = read_origin(final) if final.exists() else None
            place = next((at for at, source in self._by_place(sources) if origin and source.url == origin.url), None)
            if place is not None:
                had[file.name] = place
        return had

    def _remove(self, name: str) -> None:
        with store_errors(name):
            (self._folder / name).unlink()
            origin_path(self._folder / name).unlink()
