"""What some shards' files hold, by their headers, footers and first rows: dimension, dtype, lengths, columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.describe.layout import Layout, Part
from laion_assets.describe.places import Place
from laion_assets.errors import DatasetError
from laion_assets.shard.npy import parse_header
from laion_assets.shard.soundness import SQUARED_LENGTH_TOLERANCE

Looked = TypeVar("Looked")

LOOKED_AT = 4
"""Shards that are opened, spread over all."""

FIRST_ROWS = 64


@dataclass(frozen=True)
class Vectors:
    """An npy file: rows, dimension, numpy's text for its dtype, shortest and longest of its first vectors."""

    rows: int
    dimension: int
    dtype: str
    shortest: float
    longest: float

    @property
    def normalised(self) -> bool:
        """Whether its vectors have length 1, as near as the merge wants it."""
        return all(abs(length**2 - 1) < SQUARED_LENGTH_TOLERANCE for length in (self.shortest, self.longest))


@dataclass(frozen=True)
class Metadata:
    """A metadata file: its rows, and the fraction of nulls by column where its footer tells."""

    rows: int
    schema: pa.Schema
    nulls: dict[str, float]


@dataclass(frozen=True)
class Contents:
    """What the shards that were opened hold, by shard."""

    images: dict[int, Vectors]
    texts: dict[int, Vectors]
    metadata: dict[int, Metadata]


def look_into(place: Place, layout: Layout) -> Contents:
    """Opens some shards. Raises `DatasetError` for a file that is not what its name says, `SourceError`."""
    count = len(layout.shards)
    chosen = sorted({layout.shards[round(at)] for at in np.linspace(0, count - 1, min(count, LOOKED_AT))})
    return Contents(
        {shard: _read(place, layout.image, shard, read_vectors) for shard in chosen},
        {shard: _read(place, layout.text, shard, read_vectors) for shard in chosen if layout.text is not None},
        {shard: _read(place, layout.metadata, shard, read_metadata) for shard in chosen},
    )


def read_vectors(file: IO[bytes], name: str) -> Vectors:
    """Header and first vectors of an npy file. Raises `DatasetError`."""

    def refuse(found: str, expected: str) -> DatasetError:
        return DatasetError(name, found=found, expected=expected)

    shape, fortran_order, dtype = parse_header(file, refuse)
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise refuse(f"shape {shape} of {dtype.str}", "vectors (rows, dimension) of float16, float32 or float64")
    rows, dimension = shape
    read = 0 if fortran_order else min(rows, FIRST_ROWS)
    content = file.read(read * dimension * dtype.itemsize)
    if len(content) != read * dimension * dtype.itemsize:
        raise refuse("a file that ends within its first rows", f"{rows:,} rows")
    vectors = np.frombuffer(content, dtype).reshape(read, dimension).astype(np.float64)
    lengths = np.linalg.norm(vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)], axis=1)
    shortest, longest = (float(lengths.min()), float(lengths.max())) if len(lengths) else (1.0, 1.0)
    return Vectors(rows, dimension, dtype.str, shortest, longest)


def read_metadata(file: IO[bytes], name: str) -> Metadata:
    """Schema and footer of a Parquet file. Raises `DatasetError`."""
    try:
        with pq.ParquetFile(file) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
            nulls = {column: _null_fraction(footer, column) for column in schema.names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DatasetError(name, found=reason, expected="a Parquet file") from error
    return Metadata(footer.num_rows, schema, {name: part for name, part in nulls.items() if part is not None})


def _null_fraction(footer: pq.FileMetaData, column: str) -> float | None:
    """Of a plain column; None where some row group does not say."""
    nulls = 0
    for group in (footer.row_group(number) for number in range(footer.num_row_groups)):
        chunks = (group.column(number) for number in range(group.num_columns))
        chunk = next((chunk for chunk in chunks if chunk.path_in_schema == column), None)
        statistics = None if chunk is None else chunk.statistics
        if statistics is None or not statistics.has_null_count:
            return None
        nulls += statistics.null_count
    return nulls / footer.num_rows if footer.num_rows else None


def _read(place: Place, part: Part, shard: int, read: Callable[[IO[bytes], str], Looked]) -> Looked:
    with place.open(part.path(shard)) as file:
        return read(file, f"{place.url}/{part.path(shard)}")
