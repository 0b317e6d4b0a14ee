"""Numbers of shards, as people write them: a count, ranges with holes, a list. Knows no files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain

MAX_SHARDS = 65_536
"""The largest shard number is 65,535, since the table's partition key is a UInt16."""

NUMBER = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


def parse_numbers(value: object) -> tuple[int, ...]:
    """The shards of a dataset, sorted, without duplicates: `12` is 0 to 11, `"1-12"` and `"0-3,7"` are ranges.

    A list gives the numbers themselves. Raises `ValueError` for anything else, for an empty value, and for numbers
    above 65,535.
    """
    if isinstance(value, bool):
        value = None
    if isinstance(value, int):
        spans = [(0, min(value, MAX_SHARDS + 1) - 1)]
    elif isinstance(value, str):
        spans = [_span(piece) for piece in value.split(",")]
    elif isinstance(value, (list, tuple)) and all(type(number) is int for number in value):
        spans = [(number, number) for number in value]
    else:
        raise ValueError('it is a count such as 410, ranges such as "1-12" or "0-3,7", or a list of numbers')
    if not spans or any(not 0 <= first <= last < MAX_SHARDS for first, last in spans):
        raise ValueError(f"one shard or more, numbered from 0 to {MAX_SHARDS - 1}, ranges as low-high")
    return tuple(chain.from_iterable(range(first, last + 1) for first, last in _joined(spans)))


def as_ranges(numbers: Iterable[int], *, most: int | None = None) -> str:
    """Numbers in short: `0-409`, or `1-2, 4`. Of more than `most` ranges, `…` replaces those before the last."""
    spans = _joined((number, number) for number in numbers)
    pieces = [str(first) if first == last else f"{first}-{last}" for first, last in spans]
    return ", ".join(pieces if most is None or len(pieces) <= most else [*pieces[: most - 1], "…", pieces[-1]])


def _span(piece: str) -> tuple[int, int]:
    first, dash, last = (part.strip() for part in piece.partition("-"))
    if not NUMBER.fullmatch(first) or (dash and not NUMBER.fullmatch(last)):
        raise ValueError(f"{piece.strip()[:40]!r} is no number and no range low-high, without leading zeros")
    return int(first), int(last) if dash else int(first)


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, with adjacent ranges joined."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined
