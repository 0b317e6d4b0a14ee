"""How large shards are: known, asked from their source, or estimated. It fetches no shard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from laion_assets.dataset import NPY_HEADER_BYTES, Dataset
from laion_assets.errors import SourceError
from laion_assets.settings import Settings
from laion_assets.source.observe import observe_shard

Origin = Literal["known", "asked", "estimated"]

METADATA_BYTES_A_ROW = 155
"""Bytes a row of LAION-400M's Parquet files: about 155 MB for 1,000,448 rows (tensorflow/datasets' checksums)."""

TYPICAL_ROWS = 1_000_448
"""Rows of 404 of LAION-400M's 410 shards: the guess for a shard about which nothing is known."""

SIDE_BY_SIDE = 8
"""Shards whose sizes are asked for at the same time."""


@dataclass(frozen=True)
class ShardSize:
    """Rows of a shard, bytes of its raw files, and how the rows are known."""

    shard: int
    rows: int
    raw_bytes: int
    origin: Origin


def shard_sizes(
    settings: Settings, shards: list[int], *, ask: bool | None = None, typical_rows: int | None = None
) -> list[ShardSize]:
    """The size of each of `shards`, in their order.

    `ask` asks the source for sizes that the dataset does not know; None asks only if the first source is a folder.
    `typical_rows` is the estimate for other shards, for example the mean of the loaded ones. Raises `SourceError` when
    `ask` is true and no source answers.
    """
    dataset = settings.dataset
    asking = is_folder(settings) if ask is None else ask
    unknown = [shard for shard in shards if dataset.known_rows(shard) is None] if asking else []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        answers = dict(zip(unknown, pool.map(lambda shard: _asked(settings, shard, bool(ask)), unknown), strict=True))
    return [answers.get(shard) or _estimated(dataset, shard, typical_rows or TYPICAL_ROWS) for shard in shards]


def is_folder(settings: Settings) -> bool:
    """Whether shards come from a folder of this machine, where asking and fetching cost almost nothing."""
    url = settings.sources[0].url
    return "://" not in url or url.startswith("file://")


def raw_bytes(dataset: Dataset, rows: int) -> int:
    """Bytes of a shard's raw files by its rows: exact for npy files, as in LAION-400M for metadata."""
    vector_bytes = rows * dataset.dimension * np.dtype(dataset.dtype).itemsize
    return len(dataset.vector_columns) * (NPY_HEADER_BYTES + vector_bytes) + rows * METADATA_BYTES_A_ROW


def _estimated(dataset: Dataset, shard: int, typical_rows: int) -> ShardSize:
    known = dataset.known_rows(shard)
    rows = typical_rows if known is None else known
    return ShardSize(shard, rows, raw_bytes(dataset, rows), "estimated" if known is None else "known")


def _asked(settings: Settings, shard: int, insist: bool) -> ShardSize | None:
    """The size that the source gives; None if it does not give lengths, or does not answer and `insist` is false."""
    try:
        found = observe_shard(settings, shard)
    except SourceError:
        if insist:
            raise
        return None
    dataset = settings.dataset
    sizes = [remote.size for remote in found.values()]
    # If a file is cut into shards by row groups, each shard has about the same number of bytes.
    vectors = found[dataset.file_of("image")].size
    if vectors is None:
        return None
    vectors //= dataset.shards_per_file
    rows = max(0, vectors - NPY_HEADER_BYTES) // bytes_a_row(dataset)
    total = sum(size for size in sizes if size is not None) // dataset.shards_per_file
    return ShardSize(shard, rows, total if None not in sizes else raw_bytes(dataset, rows), "asked")


def bytes_a_row(dataset: Dataset) -> int:
    """Bytes of a row in the file that has the image vectors: exact for npy files, uncompressed size for others."""
    holder = dataset.file_of("image")
    vector = dataset.dimension * np.dtype(dataset.dtype).itemsize
    vectors = sum(dataset.file_of(part) == holder for part in dataset.parts if part != "metadata")
    return vectors * vector + (METADATA_BYTES_A_ROW if holder == "metadata" else 0)
