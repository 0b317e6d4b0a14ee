"""Names of numbered files: which belong together, how numbers are padded, which are similar to a missing name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from laion_assets.dataset import Dataset
from laion_assets.file_layout import FileKind
from laion_assets.shard_numbers import MAX_SHARDS, as_ranges

MOST_DIGITS = 6
DIGITS = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class Series:
    """Files whose names differ in one number: `pattern` has {shard} in its place, `numbers` has how it is written.

    `img_emb_07.npy` and `img_emb_08.npy` are the series `img_emb_{shard}.npy` with 7: "07" and 8: "08".
    """

    pattern: str
    numbers: dict[int, str]

    @property
    def digits(self) -> int:
        """The number of digits to which the numbers are padded; 1 if they are not padded."""
        padded = [written for written in self.numbers.values() if written.startswith("0") and len(written) > 1]
        return max(map(len, padded), default=1)

    @property
    def shards(self) -> tuple[int, ...]:
        """The numbers, sorted."""
        return tuple(sorted(self.numbers))


def find_series(names: Iterable[str]) -> list[Series]:
    """The series that names belong to, longest first. If names have several numbers, the number that varies most is
    used.

    `part_3_of_10.parquet` belongs to `part_{shard}_of_10.parquet`. Names without a number, or with a number that no
    shard can have, belong to no series.
    """
    ways = {name: [(_pattern(name, found), found.group()) for found in DIGITS.finditer(name)] for name in names}
    common = Counter(pattern for patterns in ways.values() for pattern, _ in patterns)
    found: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for patterns in ways.values():
        if patterns:
            # If two are equal, the last number is used: img_emb_v2_0.npy is shard 0.
            pattern, written = max(reversed(patterns), key=lambda each: common[each[0]])
            if int(written) < MAX_SHARDS and "{" not in pattern.replace("{shard}", ""):
                found[pattern][int(written)] = written
    return sorted((Series(*each) for each in found.items()), key=lambda series: (-len(series.numbers), series.pattern))


def near_miss(dataset: Dataset, kind: FileKind, shard: int, names: Iterable[str]) -> str:
    """What the dataset's description may mean instead, if one of a shard's files is not among `names`; else ""."""
    wanted = dataset.remote_name(kind, shard)
    pattern = {"image": dataset.image_file, "text": dataset.text_file, "metadata": dataset.metadata_file}[kind]
    there = list(names)
    if wanted in there or "{shard}" not in pattern:
        return ""
    found = find_series(there)
    same = next((series for series in found if series.pattern == pattern), None)
    if same is not None and shard in same.numbers:
        return f"{pattern.replace('{shard}', same.numbers[shard])} is there: digits = {len(same.numbers[shard])}?"
    if same is not None:
        others = as_ranges(same.shards, most=8)
        return f'no {wanted} is there, only those of shards {others}: shards = "{others}"?'
    ending = wanted.rpartition(".")[2]
    like = next((series for series in found if series.pattern.endswith(f".{ending}")), None)
    if like is not None:
        return f'{like.pattern} is there ({as_ranges(like.shards, most=8)}): {kind}_file = "{like.pattern}"?'
    return ""


def likely_names(dataset: Dataset, kind: FileKind, shard: int) -> list[str]:
    """Names that the file may have instead: with other padding, then with the next number, as if counted from 1."""
    pattern = {"image": dataset.image_file, "text": dataset.text_file, "metadata": dataset.metadata_file}[kind]
    if "{shard}" not in pattern:
        return []
    written = (f"{number:0{digits}d}" for number in (shard, shard + 1) for digits in range(1, MOST_DIGITS + 1))
    wanted = dataset.remote_name(kind, shard)
    return [name for each in dict.fromkeys(written) if (name := pattern.replace("{shard}", each)) != wanted]


def _pattern(name: str, number: re.Match[str]) -> str:
    return f"{name[: number.start()]}{{shard}}{name[number.end() :]}"
