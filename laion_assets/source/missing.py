"""Finds similar names beside a missing file of a shard, so that the user can correct the dataset's description."""

from __future__ import annotations

from collections.abc import Iterable

from laion_assets.dataset import Dataset
from laion_assets.errors import PermanentSourceError
from laion_assets.source.folder import LocalFile
from laion_assets.source.http import HttpFile
from laion_assets.source.mirrors import Source
from laion_assets.source.names import likely_names, near_miss
from laion_assets.source.object_store import ObjectFile
from laion_assets.source.wanted import WantedFile

MOST_NAMES = 100_000
"""A folder with more names than this is not searched."""


def with_near_misses(
    error: PermanentSourceError, dataset: Dataset, files: Iterable[WantedFile], places: Iterable[list[Source]]
) -> PermanentSourceError:
    """The error of a fetch, with similar names in the folders that were searched; unchanged if there are none.

    Names similar to the error's file are searched first, then those similar to the shard's other files: files are
    fetched at the same time, and with a wrong number of digits all of them are missing, but only one is reported.
    """
    looked = sorted(zip(files, places, strict=True), key=lambda pair: pair[0].subject != error.subject)
    for wanted, sources in looked:
        for source in sources:
            hint = near_miss(dataset, wanted.kind, wanted.shard, _names_beside(source, dataset, wanted))
            if hint:
                advice = f"{hint} `laion-assets describe` writes the description; or {error.advice}"
                return PermanentSourceError(error.subject, found=error.found, expected=error.expected, advice=advice)
    return error


def _names_beside(source: Source, dataset: Dataset, wanted: WantedFile) -> list[str]:
    """Names of the files in the folder that a source uses; empty if they cannot be listed."""
    try:
        if isinstance(source, LocalFile):
            names = [path.name for path in source.path.parent.iterdir() if path.is_file()]
        elif isinstance(source, ObjectFile):
            names = source.names_beside()
        elif isinstance(source, HttpFile):
            names = source.names_beside(likely_names(dataset, wanted.kind, wanted.shard))
        else:
            names = []
    except Exception:  # each store's package raises its own errors, and this only adds to an error
        return []
    return names if len(names) <= MOST_NAMES else []
