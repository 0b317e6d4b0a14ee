"""Fetches queries, and the neighbours that others computed, from a dataset's sources into the store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from laion_assets.file_layout import Given
from laion_assets.settings import Settings
from laion_assets.shard.lock import file_lock
from laion_assets.source.fetch import fetch_file
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import LogCallback, ShardTransfer
from laion_assets.source.observe import OBSERVE_SECONDS, OBSERVE_TRIES
from laion_assets.source.places import ShardPlaces
from laion_assets.source.wanted import WantedFile


def fetch_given(settings: Settings, given: Given, log: LogCallback | None = None) -> tuple[Path, Path]:
    """The files of queries and of neighbours, in `given/` of the store.

    A file of the store is used unless its source has another version, or the file came from none of the sources. If no
    source can be reached, a file that came from one of them is used. The fetch gives up earlier than that of a shard,
    since a report can be made without these files. Raises `SourceError`, `StoreError`, `SettingsError`.
    """
    folder = settings.data_dir / "given" / settings.dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    limits = replace(
        FetchLimits.of(settings), tries=OBSERVE_TRIES, file_seconds=OBSERVE_SECONDS, unreachable_seconds=0.0
    )
    wanted = [WantedFile(0, "metadata", name) for name in (given.queries, given.neighbours)]
    transfer = ShardTransfer("given queries", {file.name: None for file in wanted}, log=log)
    with (
        closing(ShardPlaces(settings, limits, transfer)) as places,
        file_lock(folder / ".given.lock", f"given queries in {folder}", wait_seconds=2 * OBSERVE_SECONDS),
    ):
        queries, neighbours = (fetch_file(file, places.of(file), folder, limits, transfer).path for file in wanted)
    return queries, neighbours
