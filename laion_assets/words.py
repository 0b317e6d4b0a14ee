"""Counts, sizes, times and ranges of shards as people write them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from laion_assets.shard_numbers import as_ranges


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 shard, 1,204 shards."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def lasting(seconds: float) -> str:
    """A time in a suitable unit: less than a minute, 12 minutes, 3.4 hours, 5.0 days."""
    if seconds < 60:
        return "less than a minute"
    if seconds < 3600:
        return counted(round(seconds / 60), "minute")
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


def keys_in_short(keys: Iterable[str], most: int = 8) -> str:
    """Partition keys: numbers as ranges, names one by one. If there are more than `most` names, the rest is counted."""
    there = sorted(keys)
    if all(key.isdecimal() for key in there):
        return as_ranges(map(int, there))
    return ", ".join(there[:most]) + (f" and {len(there) - most} more" if len(there) > most else "")


def shards_of(text: str) -> set[int]:
    """The shards of a text of `keys_in_short`, or of a JSON list of numbers, which earlier versions recorded."""
    shards: set[int] = set()
    for piece in text.split(","):
        first, _, last = piece.strip(" []").partition("-")
        if first:
            shards.update(range(int(first), int(last or first) + 1))
    return shards


def size(count: float) -> str:
    """Bytes, in a suitable unit, to two significant digits, since a plan is not more exact."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= factor:
            return f"{two_digits(count / factor)} {unit}"
    return f"{two_digits(count / 1e3)} kB"


def duration(seconds: float) -> str:
    """Seconds, in a suitable unit, to two significant digits."""
    for factor, unit, least in ((86_400, "days", 2), (3600, "h", 2), (60, "min", 2)):
        if seconds >= least * factor:
            return f"{two_digits(seconds / factor)} {unit}"
    return f"{two_digits(seconds)} s"


def between(seconds: tuple[float, float]) -> str:
    """A range from the least to the most, such as `2.1 h to 3.4 h`."""
    least, most = map(duration, seconds)
    return least if least == most else f"{least} to {most}"


def two_digits(value: float) -> str:
    """A figure to two significant digits: 0.034, 3.4, 34, 340, 3,400."""
    if not value:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    digits = 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(digits, 0)}f}"
