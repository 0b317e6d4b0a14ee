"""Reads one dataset of an HDF5 file in blocks of rows. The package h5py comes with `laion_assets[hdf5]`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from laion_assets.errors import ShardFileError, first_line
from laion_assets.shard.npy import require_vectors
from laion_assets.shard.vector_rows import Float32Rows, VectorHeader

if TYPE_CHECKING:
    import h5py

UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
"""Errors that h5py raises for damaged files, unknown filters, and names that lead nowhere."""

MOST_CHUNK_BYTES = 1 << 28
"""Compressed chunks are decompressed whole, together for a range of rows. Larger ones are refused, to limit memory."""

MOST_NAMES = 20

MOST_LINKS = 16
"""Soft links that are followed one after the other; more are a circle."""


def find_dataset(file: h5py.File, array: str | None, subject: str) -> h5py.Dataset:
    """A dataset by its path in the file, or the only one. Raises `ShardFileError` with the existing paths.

    Links to other files are not followed: only the file that was fetched is read. Links within the file are.
    """
    import h5py

    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, each: found.update({name: each} if isinstance(each, h5py.Dataset) else {}))
    wanted = array.strip("/") if array is not None else next(iter(found), "") if len(found) == 1 else None
    # `visititems` gives each dataset once, under one of its names, and follows no soft links.
    dataset = found.get(wanted or "") or (_behind(file, wanted.split("/"), MOST_LINKS) if wanted else None)
    if not isinstance(dataset, h5py.Dataset):
        raise ShardFileError(
            subject,
            found=f"datasets: {', '.join([*found][:MOST_NAMES]) or 'none'}",
            expected=f"one at {array}" if array else "one dataset",
            advice="name it under image_array or text_array in the dataset's TOML file",
        )
    if dataset.is_virtual or dataset.external:
        raise ShardFileError(subject, found=f"{wanted} with its values in other files", expected="values in this file")
    return dataset


def _behind(at: h5py.Group, steps: list[str], links: int) -> Any:
    """What a path leads to, by hard and soft links alone; None if it leads nowhere, to another file, or in a circle."""
    import h5py

    for place, step in enumerate(steps):
        if step in ("", "."):
            continue
        link = at.get(step, getlink=True) if isinstance(at, h5py.Group) else None
        if isinstance(link, h5py.SoftLink):
            start = at.file if link.path.startswith("/") else at
            return _behind(start, [*link.path.split("/"), *steps[place + 1 :]], links - 1) if links else None
        if not isinstance(link, h5py.HardLink):
            return None
        at = at[step]
    return at


def read_hdf5_header(path: Path, array: str | None, *, subject: str, dimension: int, advice: str) -> VectorHeader:
    """The shape of a dataset of shape (rows, `dimension`) of floats.

    Raises `ShardFileError` unless the file is complete, the dataset exists, and its dtype and shape are right.
    """
    with ExitStack() as stack:
        return _header(open_dataset(path, array, subject, stack), subject, dimension, advice)


def open_dataset(
    path: Path, array: str | None, subject: str, stack: ExitStack, *, cache_bytes: int = 0
) -> h5py.Dataset:
    """A dataset of a file that `stack` closes; `cache_bytes` of chunks stay in memory. Raises `ShardFileError`."""
    try:
        import h5py
    except ImportError as error:
        raise ShardFileError(
            subject, found="no package h5py", expected="it for HDF5 files", advice="install laion_assets[hdf5]"
        ) from error
    try:
        # With a lock, read-only folders, and links into them, could not be opened.
        file = stack.enter_context(h5py.File(path, "r", locking=False, rdcc_nbytes=cache_bytes))
        return find_dataset(file, array, subject)
    except UNREADABLE as error:
        raise _unreadable(subject, error) from error


def _header(dataset: h5py.Dataset, subject: str, dimension: int, advice: str) -> VectorHeader:
    def refuse(found: str, expected: str, what: str = "fetch the file again or correct its source") -> ShardFileError:
        return ShardFileError(f"{subject}, {dataset.name}", found=found, expected=expected, advice=what)

    try:
        shape, dtype, chunks = dataset.shape, dataset.dtype, dataset.chunks
    except UNREADABLE as error:
        raise _unreadable(subject, error) from error
    if shape is None:
        raise refuse("an empty dataset", f"2 dimensions (rows, {dimension})")
    rows = require_vectors(shape, dtype, dimension, refuse, advice)
    size = _band_bytes(chunks, dimension, dtype.itemsize)
    if size > MOST_CHUNK_BYTES:
        raise refuse(f"chunks of {size:,} bytes", f"at most {MOST_CHUNK_BYTES:,}")
    return VectorHeader(rows, dimension, dtype)


def _band_bytes(chunks: tuple[int, ...] | None, dimension: int, width: int) -> int:
    """Bytes of the decompressed chunks that hold a row; 0 if the values are stored without chunks."""
    return chunks[0] * -(-dimension // chunks[1]) * chunks[1] * width if chunks else 0


class Hdf5Reader:
    """Reads one dataset of an HDF5 file in order, block by block, as float32."""

    def __init__(self, path: Path, array: str | None, header: VectorHeader, *, subject: str, block_rows: int) -> None:
        self._subject = subject
        self._row = 0
        self._raw = np.empty((block_rows, header.dimension), dtype=header.dtype)
        with ExitStack() as looking:
            chunks = open_dataset(path, array, subject, looking).chunks
        # A chunk stays decompressed until its last row is read.
        cache = _band_bytes(chunks, header.dimension, header.dtype.itemsize)
        with ExitStack() as files:
            self._dataset: Any = open_dataset(path, array, subject, files, cache_bytes=cache)
            header.require_same(_header(self._dataset, subject, header.dimension, ""), subject)
            self._files = files.pop_all()

    def __enter__(self) -> Hdf5Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.close()

    def read_into(self, out: Float32Rows) -> None:
        """Fills `out`, float32 (n, dimension), with the next n rows. Values too large for float32 become infinite.

        Raises `ShardFileError` when the file is damaged.
        """
        rows = len(out)
        if not rows:
            return
        raw = self._raw[:rows]
        try:
            self._dataset.read_direct(raw, np.s_[self._row : self._row + rows], np.s_[:rows])
        except UNREADABLE as error:
            raise _unreadable(self._subject, error) from error
        self._row += rows
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = raw


def _unreadable(subject: str, error: Exception) -> ShardFileError:
    return ShardFileError(subject, found=first_line(error), expected="a sound HDF5 file", advice="fetch the file again")
