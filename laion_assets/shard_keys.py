"""Which shard is meant: partition keys (numbers or names), and selections such as `0-9`. Opens no file."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from laion_assets.errors import DatasetError
from laion_assets.file_layout import FileLayout
from laion_assets.shard_numbers import NUMBER, as_ranges

LONGEST_KEY = 255
"""The most characters of a partition key that each database supported by Dagster can hold."""


class ShardKeys(FileLayout):
    """A file layout with partition keys for its shards. The table has a shard's number; Dagster may have its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    partition_keys: Literal["numbers", "names"] = "numbers"

    @model_validator(mode="after")
    def _names_can_be_keys(self) -> ShardKeys:
        if self.partition_keys == "names":
            if not self.names:
                raise ValueError('partition_keys = "names" needs names, or a lock file that has them')
            for shard in self.shards:
                name = self.names[shard]
                # Dagster separates ranges of partitions by three dots, and our selections are separated by commas.
                if len(name) > LONGEST_KEY or re.search(r"\.\.\.|,|^\s|\s$", name) or name == "all":
                    raise ValueError(f"shard {shard}: {name[:60]!r} cannot be a partition key")
                if NUMBER.fullmatch(name) and name != str(shard):
                    raise ValueError(f"shard {shard} has the name {name}, another shard's number: use numbers as keys")
        return self

    @cached_property
    def shard_keys(self) -> list[str]:
        """Partition keys as people type them, in the order of their numbers: "0" … "409", or names."""
        return [self.key_of(shard) for shard in self.shards]

    def key_of(self, shard: int) -> str:
        """The partition key of a shard."""
        return self.names.get(shard, str(shard)) if self.partition_keys == "names" else str(shard)

    @property
    def shard_range(self) -> str:
        """The shards in words: `0 to 409`, or with holes `1-2, 4`."""
        first, last = self.shards[0], self.shards[-1]
        return f"{first} to {last}" if last - first == len(self.shards) - 1 else as_ranges(self.shards, most=8)

    def has_shard(self, shard: int) -> bool:
        """Whether the dataset has a shard of that number."""
        place = bisect_left(self.shards, shard)
        return place < len(self.shards) and self.shards[place] == shard

    def shard_number(self, key: str) -> int:
        """The shard of a partition key, of a name in the listing, or of a number. Raises `DatasetError`."""
        named = self._named.get(key)
        if named is not None:
            return named
        if not NUMBER.fullmatch(key) or not self.has_shard(int(key)):
            raise self._no_shard(key)
        return int(key)

    def shard_numbers(self, selection: str) -> list[int]:
        """Shards of a selection such as `0-9`, `3`, `1,4,7-9` or names, sorted, each once. Raises `DatasetError`.

        `all` is every shard. A range selects those of its numbers that the dataset has: `0-9` is 1 to 9 if the dataset
        begins at 1.
        """
        if selection.strip() == "all":
            return list(self.shards)
        shards: set[int] = set()
        for piece in selection.split(","):
            first, dash, last = (part.strip() for part in piece.partition("-"))
            if not dash or piece.strip() in self._named:
                shards.add(self.shard_number(piece.strip()))
                continue
            for end in (first, last):
                if not NUMBER.fullmatch(end) or int(end) > self.shards[-1]:
                    raise self._no_shard(piece.strip() if self.names else end)
            found = self.shards[bisect_left(self.shards, int(first)) : bisect_right(self.shards, int(last))]
            if not found:
                raise DatasetError(
                    f"dataset {self.name}",
                    found=f"the range {piece.strip()!r}",
                    expected=f"low-high, with shards of {self.shard_range} in it",
                )
            shards.update(found)
        return sorted(shards)

    @cached_property
    def _named(self) -> dict[str, int]:
        """Shards by name, without the names that could be read as numbers."""
        return {
            name: shard for shard, name in self.names.items() if not NUMBER.fullmatch(name) and self.has_shard(shard)
        }

    def _no_shard(self, key: str) -> DatasetError:
        return DatasetError(
            f"dataset {self.name}",
            found=f"shard {key[:40]!r}",
            expected=f"{self.shard_range}{', or a name of the listing' if self.names else ''}",
            advice="shards are numbered without leading zeros",
        )
