"""Reads keys of rows from any kind of file, as pairs of 64-bit hashes. It joins nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as of

from laion_assets.errors import ShardFileError, first_line
from laion_assets.file_layout import Container
from laion_assets.shard.hdf5 import UNREADABLE as HDF5_UNREADABLE
from laion_assets.shard.hdf5 import open_dataset
from laion_assets.shard.npy import parse_header
from laion_assets.shard.npz import UNREADABLE as NPZ_UNREADABLE
from laion_assets.shard.npz import find_array

BATCH_ROWS = 65_536
LONGEST_KEY = 1_024
"""Bytes of a key, or characters: numpy's arrays of texts (U) take four bytes for each."""

BATCH_BYTES = 1 << 26
"""Bytes of a batch of an npz array, whose keys all have the length of the longest."""

Hashes = npt.NDArray[np.uint64]
"""(n, 2): two hashes of a key, of different seeds. Two of ten million keys are confused with probability 10^-24."""

UNREADABLE = (*NPZ_UNREADABLE, *HDF5_UNREADABLE, pa.ArrowException, UnicodeDecodeError)


def read_keys(
    path: Path, name: str, container: Container, *, subject: str
) -> Iterator[tuple[Hashes, npt.NDArray[np.bool_]]]:
    """Batches of the hashes of a file's keys, in order, and which keys are null.

    `name` is a column of a Parquet file, or a one-dimensional array of an npz or HDF5 file, of text or whole numbers. 7
    is the same key as "7". Raises `ShardFileError` if there is no such column or array.
    """
    read = {"parquet": _of_parquet, "npz": _of_npz, "hdf5": _of_hdf5}[container]
    try:
        for values in read(path, name, subject):
            yield _hashed(values, f"{subject}, {name}")
    except UNREADABLE as error:
        raise ShardFileError(
            subject, found=first_line(error), expected=f"keys in {name}", advice="fetch the file again"
        ) from error


def _hashed(values: pa.Array, subject: str) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if of.is_dictionary(values.type):
        values = values.dictionary_decode()
    texts = (of.is_string, of.is_large_string, of.is_binary, of.is_large_binary, of.is_fixed_size_binary, of.is_integer)
    if not any(is_kind(values.type) for is_kind in texts) and values.type not in (pa.string_view(), pa.binary_view()):
        raise ShardFileError(subject, found=f"values of type {values.type}", expected="text or whole numbers as keys")
    import polars as pl  # takes a quarter of a second, so it is not imported with the code location

    series = pl.Series(values.cast(pa.large_string()))
    hashes = np.stack([series.hash(seed).to_numpy() for seed in (1, 2)], axis=1)
    return hashes, series.is_null().to_numpy()


def _of_parquet(path: Path, name: str, subject: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        if file.schema_arrow.names.count(name) != 1:
            raise _no_keys(subject, file.schema_arrow.names, name)
        for batch in file.iter_batches(BATCH_ROWS, columns=[name], use_threads=False):
            yield batch.column(0)


def _of_npz(path: Path, name: str, subject: str) -> Iterator[pa.Array]:
    def refuse(found: str, expected: str) -> ShardFileError:
        return ShardFileError(f"{subject}, {name}", found=found, expected=expected)

    with zipfile.ZipFile(path) as archive, archive.open(find_array(archive, name, subject)) as file:
        shape, _, dtype = parse_header(file, refuse)
        _require_keys(shape, dtype, f"{subject}, {name}")
        batch = min(BATCH_ROWS, BATCH_BYTES // max(1, dtype.itemsize))
        for first in range(0, shape[0], batch):
            rows = min(batch, shape[0] - first)
            content = b""
            while len(content) < rows * dtype.itemsize:
                piece = file.read(rows * dtype.itemsize - len(content))
                if not piece:
                    raise refuse(f"the end of the array in row {first:,}", f"{shape[0]:,} rows")
                content += piece
            yield pa.array(np.frombuffer(content, dtype).astype(dtype.newbyteorder("=")))


def _of_hdf5(path: Path, name: str, subject: str) -> Iterator[pa.Array]:
    with ExitStack() as stack:
        dataset = open_dataset(path, name, subject, stack)
        if dataset.dtype.kind != "O":
            _require_keys(dataset.shape, dataset.dtype, f"{subject}, {name}")
        elif dataset.ndim != 1:
            raise ShardFileError(f"{subject}, {name}", found=f"shape {dataset.shape}", expected="one dimension")
        for first in range(0, dataset.shape[0], BATCH_ROWS):
            yield pa.array(dataset[first : first + BATCH_ROWS])


def _require_keys(shape: tuple[int, ...], dtype: np.dtype[np.generic], subject: str) -> None:
    longest = dtype.itemsize // (4 if dtype.kind == "U" else 1)
    if dtype.kind in "SU" and longest > LONGEST_KEY:
        raise ShardFileError(
            subject,
            found=f"keys of {longest:,} {'characters' if dtype.kind == 'U' else 'bytes'}, {dtype.str}",
            expected=f"keys of at most {LONGEST_KEY:,}",
            advice="shorten the longest, or write the array with its real length",
        )
    if len(shape) != 1 or dtype.kind not in "iuSU":
        raise ShardFileError(
            subject, found=f"shape {shape} of {dtype.str}", expected="one dimension, of text or whole numbers, as keys"
        )


def _no_keys(subject: str, names: list[str], name: str) -> ShardFileError:
    shown = ", ".join(names[:20])
    return ShardFileError(
        subject,
        found=f"{names.count(name) or 'no'} column {name} among: {shown}",
        expected="one column of keys",
        advice="name it under [join] in the dataset's TOML file",
    )
