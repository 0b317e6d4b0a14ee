"""Reads one array of an npz file (numpy's zip of npy files) in blocks of rows, stored or compressed."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from laion_assets.errors import ShardFileError, first_line
from laion_assets.read_ahead import read_ahead
from laion_assets.shard.npy import parse_header, require_vectors
from laion_assets.shard.vector_rows import Float32Rows, VectorHeader

UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError),
)
"""Errors that zipfile raises for a damaged, encrypted or unknown archive."""


PIECE_BYTES = 1 << 20
"""Bytes decompressed at once: with larger pieces zipfile copies smaller ones together."""


def find_array(archive: zipfile.ZipFile, array: str | None, subject: str) -> zipfile.ZipInfo:
    """The entry of an array by its name, or the only one. Raises `ShardFileError` with the existing names."""
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if array is None and len(entries) == 1:
        return next(iter(entries.values()))
    if array is None or array not in entries:
        shown = ", ".join([*entries][:20]) or "none"
        raise ShardFileError(
            subject,
            found=f"arrays: {shown}",
            expected=f"one named {array}" if array else "one array",
            advice="name it under image_array or text_array in the dataset's TOML file",
        )
    return entries[array]


def read_npz_header(path: Path, array: str | None, *, subject: str, dimension: int, advice: str) -> VectorHeader:
    """The header of an array of shape (rows, `dimension`) of floats; nothing in it is unpickled.

    Raises `ShardFileError` unless the zip's directory, the array's name, dtype, shape and its exact size are right.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = find_array(archive, array, subject)
            with archive.open(entry) as file:
                return _header(file, entry, subject, dimension, advice)
    except UNREADABLE as error:
        raise _unreadable(subject, error) from error


def _header(file: IO[bytes], entry: zipfile.ZipInfo, subject: str, dimension: int, advice: str) -> VectorHeader:
    """The array's header; afterwards the file is at the array's first value."""

    def refuse(found: str, expected: str, what: str = "fetch the file again or correct its source") -> ShardFileError:
        return ShardFileError(f"{subject}, {entry.filename}", found=found, expected=expected, advice=what)

    shape, fortran_order, dtype = parse_header(file, refuse)
    offset = file.tell()
    rows = require_vectors(shape, dtype, dimension, refuse, advice)
    if fortran_order and rows > 1 and dimension > 1:
        raise refuse("columns one after the other (Fortran order)", "rows", "write it with numpy.ascontiguousarray")
    header = VectorHeader(rows, dimension, dtype)
    if entry.file_size != offset + header.bytes:
        raise refuse(f"{entry.file_size:,} bytes", f"{offset + header.bytes:,} for shape {shape} of {dtype.str}")
    return header


class NpzReader:
    """Reads one array of an npz file in order, block by block, as float32. At its end the CRC-32 is compared.

    The next block is decompressed in a thread while the current one is used: two arrays take two cores.
    """

    def __init__(self, path: Path, array: str | None, header: VectorHeader, *, subject: str, block_rows: int) -> None:
        self._subject = subject
        self._header = header
        try:
            with ExitStack() as files:
                archive = files.enter_context(zipfile.ZipFile(path))
                entry = find_array(archive, array, subject)
                self._file = files.enter_context(archive.open(entry))
                header.require_same(_header(self._file, entry, subject, header.dimension, ""), subject)
                self._files = files.pop_all()
        except UNREADABLE as error:
            raise _unreadable(subject, error) from error
        self._block = np.empty((0, header.dimension), dtype=header.dtype)
        self._blocks = read_ahead(self._inflated(block_rows))
        self._files.callback(self._blocks.close)

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.close()

    def read_into(self, out: Float32Rows) -> None:
        """Fills `out`, float32 (n, dimension), with the next n rows. Values too large for float32 become infinite.

        Raises `ShardFileError` when the archive is damaged.
        """
        done = 0
        while done < len(out):
            if not len(self._block):
                self._block = next(self._blocks)
            rows = min(len(out) - done, len(self._block))
            with np.errstate(over="ignore", invalid="ignore"):
                out[done : done + rows] = self._block[:rows]
            self._block = self._block[rows:]
            done += rows

    def _inflated(self, block_rows: int) -> Iterator[npt.NDArray[np.floating]]:
        """Blocks in order. Two buffers are used alternately: a block is valid until the second next is asked for."""
        shape = (block_rows, self._header.dimension)
        buffers = [np.empty(shape, dtype=self._header.dtype) for _ in range(2)]
        total = self._header.rows
        for number, first in enumerate(range(0, total, block_rows)):
            block = buffers[number % 2][: min(block_rows, total - first)]
            try:
                self._fill(block.data.cast("B"), first)
                if first + len(block) == total:
                    self._file.read(1)  # at the array's end zipfile compares the CRC
            except UNREADABLE as error:
                raise _unreadable(self._subject, error) from error
            yield block

    def _fill(self, view: memoryview, row: int) -> None:
        done = 0
        while done < len(view):
            piece = self._file.read(min(len(view) - done, PIECE_BYTES))
            if not piece:
                raise ShardFileError(
                    self._subject, found=f"the end of the array after row {row:,}", expected=f"{self._header.rows:,}"
                )
            view[done : done + len(piece)] = piece
            done += len(piece)


def _unreadable(subject: str, error: Exception) -> ShardFileError:
    return ShardFileError(subject, found=first_line(error), expected="a sound npz file", advice="fetch the file again")
