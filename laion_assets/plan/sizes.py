"""How large shards are: known, asked from their source, or estimated. It fetches no shard."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from laion_assets.dataset import NPY_HEADER_BYTES, Dataset
from laion_assets.errors import SourceError
from laion_assets.settings import Settings
from laion_assets.shard.npy import parse_header
from laion_assets.source.failures import WrongFileError
from laion_assets.source.fetch_limits import FetchLimits
from laion_assets.source.fetch_progress import ShardTransfer
from laion_assets.source.observe import OBSERVE_SECONDS, observe_shard
from laion_assets.source.places import ShardPlaces
from laion_assets.source.remote_file import RemoteFile
from laion_assets.source.wanted import START_BYTES, wanted_files

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
    stated = _rows_of_npy(settings, shard, found[dataset.file_of("image")])
    rows = max(0, vectors - NPY_HEADER_BYTES) // bytes_a_row(dataset) if stated is None else stated
    total = sum(size for size in sizes if size is not None) // dataset.shards_per_file
    origin: Origin = "estimated" if stated is None else "asked"
    return ShardSize(shard, rows, total if None not in sizes else raw_bytes(dataset, rows), origin)


def _rows_of_npy(settings: Settings, shard: int, remote: RemoteFile) -> int | None:
    """The rows by the header of an npy file, whose numbers may be wider than the dataset says; None for other files,
    and if the header cannot be read."""
    dataset = settings.dataset
    if dataset.container("image") != "npy":
        return None
    wanted = next(file for file in wanted_files(settings, shard) if file.kind == dataset.file_of("image"))
    limits = FetchLimits.of(settings)
    with closing(ShardPlaces(settings, limits, ShardTransfer(f"shard {shard}", {}))) as places:
        files = [places.whole(place, wanted) for place in settings.sources]
        file = next((file for file in files if file.url == remote.url), None)
        try:
            end = min(START_BYTES, remote.size or 0)
            start = b"".join(file.read_range(0, end, remote, OBSERVE_SECONDS)) if file is not None else b""
            shape, _, _ = parse_header(io.BytesIO(start), lambda found, _: WrongFileError(wanted.subject, found=found))
        except (SourceError, ValueError):
            return None
    return int(shape[0]) if shape else None


def bytes_a_row(dataset: Dataset) -> int:
    """Bytes of a row in the file that has the image vectors: exact for npy files, uncompressed size for others."""
    holder = dataset.file_of("image")
    vector = dataset.dimension * np.dtype(dataset.dtype).itemsize
    vectors = sum(dataset.file_of(part) == holder for part in dataset.parts if part != "metadata")
    return vectors * vector + (METADATA_BYTES_A_ROW if holder == "metadata" else 0)
