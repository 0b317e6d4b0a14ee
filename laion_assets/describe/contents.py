"""What the files of some shards hold, by their headers, footers and first rows: dimension, dtype, lengths, columns."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.describe.layout import Layout, Part, says
from laion_assets.describe.places import Place
from laion_assets.errors import DatasetError, first_line
from laion_assets.shard.hdf5 import UNREADABLE as HDF5_UNREADABLE
from laion_assets.shard.list_column import list_kind
from laion_assets.shard.npy import parse_header
from laion_assets.shard.npz import UNREADABLE as NPZ_UNREADABLE
from laion_assets.shard.soundness import SQUARED_LENGTH_TOLERANCE

Looked = TypeVar("Looked")

LOOKED_AT = 4
"""How many shards are opened; they are spread over all shards."""

FIRST_ROWS = 64

BUFFER_BYTES = 1 << 20
"""Bytes that are read of a Parquet column at a time. pyarrow would else read the columns' first row group whole: a file
of a million rows and 768 dimensions usually has one row group, of 3 GB a column."""


@dataclass(frozen=True)
class Vectors:
    """An npy file: rows, dimension, numpy's text for its dtype, lengths of the shortest and longest first vectors."""

    rows: int
    dimension: int
    dtype: str
    shortest: float
    longest: float

    @property
    def normalised(self) -> bool:
        """Whether its vectors have length 1, as closely as the merge requires."""
        return all(abs(length**2 - 1) < SQUARED_LENGTH_TOLERANCE for length in (self.shortest, self.longest))


@dataclass(frozen=True)
class Metadata:
    """A metadata file: its rows, the fraction of nulls by column if its footer has it, its row groups."""

    rows: int
    schema: pa.Schema
    nulls: dict[str, float]
    row_groups: int = 1


@dataclass(frozen=True)
class Arrays:
    """Which arrays of archives, or columns of Parquet files, are vectors: the images', the texts', and all of them."""

    image: str
    text: str | None
    every: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """The contents of the shards that were opened, by shard."""

    images: dict[int, Vectors]
    texts: dict[int, Vectors]
    metadata: dict[int, Metadata]
    arrays: Arrays | None = None


def look_into(place: Place, layout: Layout) -> Contents:
    """Opens some shards. Raises `DatasetError` for a file whose format does not match its name, `SourceError`."""
    count = len(layout.shards)
    chosen = sorted({layout.shards[round(at)] for at in np.linspace(0, count - 1, min(count, LOOKED_AT))})
    if layout.image.ending != "npy":
        return _look_into_arrays(place, layout, chosen)
    return Contents(
        {shard: _read(place, layout.image, shard, read_vectors) for shard in chosen},
        {shard: _read(place, layout.text, shard, read_vectors) for shard in chosen if layout.text is not None},
        {shard: _read(place, layout.metadata, shard, read_metadata) for shard in chosen if layout.metadata},
    )


def _look_into_arrays(place: Place, layout: Layout, chosen: list[int]) -> Contents:
    read = {"npz": read_archive, "parquet": read_columns}.get(layout.image.ending, read_hdf5)
    found = {shard: _read(place, layout.image, shard, read) for shard in chosen}
    arrays = _choose(next(iter(found.values())), layout.image.path(chosen[0]))
    for shard, vectors in found.items():
        missing = {arrays.image, arrays.text or arrays.image} - vectors.keys()
        if missing:
            raise DatasetError(
                layout.image.path(shard), found=f"no vectors in {', '.join(missing)}", expected="the same in all files"
            )
    return Contents(
        {shard: vectors[arrays.image] for shard, vectors in found.items()},
        {shard: vectors[arrays.text] for shard, vectors in found.items() if arrays.text is not None},
        {shard: _read(place, layout.metadata, shard, read_metadata) for shard in chosen if layout.metadata},
        arrays,
    )


def _choose(found: dict[str, Vectors], name: str) -> Arrays:
    """Chooses by name; the first array if no name says image. Texts must be named so and have the images' dimension."""
    if not found:
        raise DatasetError(name, found="no lists or arrays of floats", expected="vectors")
    texts = [array for array in found if says("text", array)]
    others = [array for array in found if array not in texts] or [*found]
    image = next((array for array in others if says("image", array)), others[0])
    fitting = [array for array in texts if array != image and found[array].dimension == found[image].dimension]
    text = max(fitting, key=lambda array: SequenceMatcher(None, image, array).ratio(), default=None)
    return Arrays(image, text, tuple(found))


def read_archive(file: IO[bytes], name: str) -> dict[str, Vectors]:
    """The arrays of an npz file that are vectors, by name. Raises `DatasetError`."""
    found: dict[str, Vectors] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as array, contextlib.suppress(DatasetError):
                    found[entry.filename.removesuffix(".npy")] = read_vectors(array, f"{name}, {entry.filename}")
    except NPZ_UNREADABLE as error:
        raise DatasetError(name, found=first_line(error), expected="an npz file") from error
    return found


def read_hdf5(file: IO[bytes], name: str) -> dict[str, Vectors]:
    """The datasets of an HDF5 file that are vectors, by path. Raises `DatasetError`."""
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(name, found="no package h5py", expected="it", advice="install laion_assets[hdf5]") from error
    found: dict[str, Vectors] = {}

    def look(path: str, each: object) -> None:
        if not isinstance(each, h5py.Dataset) or each.is_virtual or each.external or each.shape is None:
            return
        if len(each.shape) == 2 and each.dtype.kind == "f" and each.dtype.itemsize in (2, 4, 8):
            first = each[:FIRST_ROWS].astype(np.float64)
            found[path] = Vectors(each.shape[0], each.shape[1], each.dtype.str, *_lengths(first))

    try:
        with h5py.File(file, "r") as archive:
            archive.visititems(look)
    except HDF5_UNREADABLE as error:
        raise DatasetError(name, found=first_line(error), expected="an HDF5 file") from error
    return found


def read_columns(file: IO[bytes], name: str) -> dict[str, Vectors]:
    """The list columns of a Parquet file that are vectors, by name. Raises `DatasetError`."""
    try:
        with _parquet(file) as parquet:
            kinds = {field.name: kind for field in parquet.schema_arrow if (kind := list_kind(field.type)) is not None}
            batches = parquet.iter_batches(FIRST_ROWS, columns=[*kinds], use_threads=False)
            first = next(batches, None) if kinds else None
            rows = parquet.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(name, found=first_line(error), expected="a Parquet file") from error
    found: dict[str, Vectors] = {}
    for column, (dtype, _) in kinds.items():
        lists = [row for row in (first.column(column).to_pylist() if first is not None else []) if row]
        if lists:
            drawn = np.array([row for row in lists if len(row) == len(lists[0])], np.float64)
            shortest, longest = _lengths(drawn)
            found[column] = Vectors(rows, len(lists[0]), dtype.str, shortest, longest)
    return found


def _lengths(vectors: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The shortest and longest length that is finite and not zero; 1 if there is none."""
    lengths = np.linalg.norm(vectors[np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)], axis=1)
    return (float(lengths.min()), float(lengths.max())) if len(lengths) else (1.0, 1.0)


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
    return Vectors(rows, dimension, dtype.str, *_lengths(vectors))


def read_metadata(file: IO[bytes], name: str) -> Metadata:
    """Schema and footer of a Parquet file. Raises `DatasetError`."""
    try:
        with _parquet(file) as parquet:
            footer, schema = parquet.metadata, parquet.schema_arrow
            nulls = {column: _null_fraction(footer, column) for column in schema.names}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DatasetError(name, found=reason, expected="a Parquet file") from error
    return Metadata(
        footer.num_rows,
        schema,
        {name: part for name, part in nulls.items() if part is not None},
        footer.num_row_groups,
    )


def _parquet(file: IO[bytes]) -> pq.ParquetFile:
    return pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)


def _null_fraction(footer: pq.FileMetaData, column: str) -> float | None:
    """The fraction of nulls in a column without nesting; None if a row group does not have it."""
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
