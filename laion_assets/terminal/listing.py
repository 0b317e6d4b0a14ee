"""The finding of `laion-assets status` about a lock file: whether the source still has the locked files."""

from __future__ import annotations

import threading
from pathlib import Path

from laion_assets.dataset import user_path
from laion_assets.describe.lock import look_at_listing
from laion_assets.errors import LaionError
from laion_assets.health.finding import Finding, naming
from laion_assets.listing import Listing, differences
from laion_assets.settings import Settings
from laion_assets.words import counted

SOURCE_SECONDS = 10.0
"""Seconds that the source may take to answer, since people wait for a status."""

NAME = "listing_is_as_locked"


def listing_is_as_locked(settings: Settings) -> list[Finding]:
    """The finding; empty for a dataset without a lock file. New files are no fault: the locked ones have not
    changed."""
    locked = settings.dataset.listing
    if locked is None:
        return []
    found: list[Listing | LaionError] = []
    source = settings.source[0] if settings.source else None

    def look() -> None:
        try:
            found.append(look_at_listing(Path(user_path(settings.dataset_name)), locked, source=source))
        except LaionError as error:
            found.append(error)

    thread = threading.Thread(target=look, daemon=True, name="listing")
    thread.start()
    thread.join(SOURCE_SECONDS)
    if not found:
        return [Finding(NAME, None, f"the source did not answer within {SOURCE_SECONDS:g} s")]
    now = found[0]
    if isinstance(now, LaionError):
        return [Finding(NAME, None, f"not compared: {now}")]
    changes = [*differences(locked, now)]
    changes.sort(key=lambda change: change.startswith("new:"))
    moved = [change for change in changes if not change.startswith("new:")]
    if not changes:
        return [Finding(NAME, True, f"{counted(len(locked.shards), 'shard')} as in the lock file")]
    advice = f"`laion-assets describe {settings.dataset_name} --lock` takes it over"
    return [Finding(NAME, not moved, f"{naming(changes)}. {advice}")]
