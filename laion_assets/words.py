"""How facts are said: counts, times and ranges of shards, as people write them."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 shard, 1,204 shards."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def lasting(seconds: float) -> str:
    """A time in the unit that suits it: less than a minute, 12 minutes, 3.4 hours, 5.0 days."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 3600:
        return counted(round(seconds / 60), "minute")
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


def as_ranges(shards: Iterable[int]) -> str:
    """Shards as people type them: 0-9, 12, 14-15."""
    runs: list[list[int]] = []
    for shard in sorted(set(shards)):
        if runs and shard == runs[-1][-1] + 1:
            runs[-1][1:] = [shard]
        else:
            runs.append([shard])
    return ", ".join("-".join(map(str, run)) for run in runs)


def keys_in_short(keys: Iterable[str], most: int = 8) -> str:
    """Partition keys: numbers as ranges, names one by one, of which more than `most` are counted."""
    there = sorted(keys)
    if all(key.isdecimal() for key in there):
        return as_ranges(map(int, there))
    return ", ".join(there[:most]) + (f" and {len(there) - most} more" if len(there) > most else "")


def shards_of(text: str) -> set[int]:
    """The shards of such a text, or of a list of numbers as JSON, which earlier versions recorded."""
    shards: set[int] = set()
    for piece in text.split(","):
        first, _, last = piece.strip(" []").partition("-")
        if first:
            shards.update(range(int(first), int(last or first) + 1))
    return shards
