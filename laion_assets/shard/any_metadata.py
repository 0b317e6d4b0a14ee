"""The metadata of a shard, of any origin: a file in the vectors' order, one joined by a key, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from laion_assets.columns import PAGE_TYPES, ColumnType
from laion_assets.dataset import Dataset
from laion_assets.errors import ShardFileError
from laion_assets.shard.arrow_values import ARROW_TYPES
from laion_assets.shard.join import JoinedMetadata
from laion_assets.shard.metadata import MetadataReader, NullCounts
from laion_assets.shard.store import ShardFiles
from laion_assets.shard.vector_rows import RowFaults


class Metadata(Protocol):
    """The metadata of a shard: `columns` maps each wanted column to its name in the file, or to None if there is none.

    `unmatched` counts rows of the metadata without a vector.
    """

    rows: int
    columns: dict[str, str | None]
    nulls: NullCounts
    unmatched: int

    def blocks(self, block_rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of `block_rows` rows: see `MetadataReader`."""

    def faults(self, first: int, rows: int) -> RowFaults | None:
        """Why each of `rows` rows from `first` on is refused, "" for a row that is not; None if no row is."""


def open_metadata(files: ShardFiles, extra_columns: dict[str, ColumnType], *, rows: int) -> Metadata:
    """The metadata of a shard; for vectors alone, `rows` rows of defaults. Raises `ShardFileError`."""
    if not files.dataset.has_metadata:
        return DefaultsAlone(files.dataset, extra_columns, rows, subject=files.subject("image"))
    if files.dataset.join is not None:
        return JoinedMetadata(files, extra_columns, rows)
    return MetadataReader(files.metadata, files.dataset, subject=files.subject("metadata"), extra_columns=extra_columns)


class DefaultsAlone:
    """The dataset's defaults in place of metadata. Raises `ShardFileError` for a column without one."""

    unmatched = 0

    def __init__(self, dataset: Dataset, extra_columns: dict[str, ColumnType], rows: int, *, subject: str) -> None:
        types: dict[str, ColumnType] = PAGE_TYPES | extra_columns
        missing = [column for column in types if dataset.default(column) is None]
        if missing:
            raise ShardFileError(
                subject,
                found=f"no metadata, and no default for {', '.join(missing)}",
                expected="a default for each column",
                advice='say them in the dataset\'s TOML file under [defaults] (caption = "", similarity = nan)',
            )
        self.rows = rows
        self.columns: dict[str, str | None] = dict.fromkeys(types)
        self.nulls = NullCounts(dict.fromkeys(types, 0))
        self._fillers = {
            column: pa.scalar(dataset.default(column), type=ARROW_TYPES[kind]) for column, kind in types.items()
        }

    def blocks(self, block_rows: int) -> Iterator[dict[str, pa.Array]]:
        """Blocks of the defaults."""
        for first in range(0, self.rows, block_rows):
            rows = min(block_rows, self.rows - first)
            yield {column: pa.repeat(filler, rows) for column, filler in self._fillers.items()}

    def faults(self, first: int, rows: int) -> None:
        """None: no row is refused; see `Metadata`."""
