"""Reads npy files of embeddings in blocks of rows. Other modules decide which vectors are sound."""

from __future__ import annotations

import os
import threading
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from laion_assets.errors import LaionError, ShardFileError, first_line
from laion_assets.shard.vector_rows import Float32Rows, VectorHeader

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
"""Most bytes of a header: numpy's own limit for headers of unknown origin; LAION's have 118 bytes."""

ONE_PARSER = threading.Lock()
"""numpy lets Python's parser read a header. While three threads did so for the files of a shard, about one fetch in 600
ended with `SystemError: AST constructor recursion depth mismatch` although the headers were sound (CPython 3.11.7)."""

UNPARSABLE = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError),
    *(RecursionError, MemoryError, EOFError, SystemError),
)
"""Errors that numpy raises for an invalid header."""

HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}
"""Readers by version. 3.0 differs from 2.0 only in the encoding of field names, and arrays with fields are refused."""


@dataclass(frozen=True)
class NpyHeader(VectorHeader):
    """The facts of an npy file's header, checked against the file's size.

    The first value is `offset` bytes after the file's beginning.
    """

    fortran_order: bool
    offset: int


def read_header(
    path: Path, *, subject: str, dimension: int, advice: str = "set the dataset's dimension, or correct the source"
) -> NpyHeader:
    """The header of an npy file of shape (rows, `dimension`) of floats; nothing in it is unpickled or executed.

    `advice` is what to do about another dimension.

    Raises `ShardFileError` about `subject` unless magic, version, dtype, shape and the exact size are right.
    """

    def refuse(found: str, expected: str, what: str = "fetch the file again or correct its source") -> ShardFileError:
        return ShardFileError(subject, found=found, expected=expected, advice=what)

    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            shape, fortran_order, dtype = parse_header(file, refuse)
            offset = file.tell()
    except OSError as error:
        raise refuse(f"{error.strerror or error}", "a readable npy file") from error
    rows = require_vectors(shape, dtype, dimension, refuse, advice)
    header = NpyHeader(rows, dimension, dtype, fortran_order, offset)
    if size != offset + header.bytes:
        raise refuse(f"{size:,} bytes", f"{offset + header.bytes:,} for shape {shape} of {dtype.str}")
    return header


def require_vectors(
    shape: tuple[int, ...],
    dtype: np.dtype[np.floating],
    dimension: int,
    refuse: Callable[..., LaionError],
    advice: str,
) -> int:
    """The number of rows of an array that should have the shape (rows, `dimension`), of floats.

    Raises the error that `refuse` makes of what was found, what was expected, and `advice` for another dimension.
    """
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise refuse(f"dtype {dtype.str if dtype.names is None else 'of several fields'}", "float16, 32 or 64")
    if len(shape) != 2:
        raise refuse(f"{len(shape)} dimensions {shape}", f"2 dimensions (rows, {dimension})")
    if shape[0] < 0 or shape[1] != dimension:
        raise refuse(f"shape {shape}", f"(rows, {dimension})", advice)
    return shape[0]


def parse_header(
    file: IO[bytes], refuse: Callable[[str, str], LaionError]
) -> tuple[tuple[int, ...], bool, np.dtype[np.floating]]:
    """Shape, order and dtype of an npy file at its beginning, by numpy's own reader; nothing is unpickled or executed.

    Raises the error that `refuse` makes of what was found and what was expected.
    """
    start = file.read(12)
    if start[:6] != MAGIC:
        raise refuse(f"a file that starts with {start[:16]!r}", "an npy file (\\x93NUMPY)")
    version = (start[6], start[7]) if len(start) >= 8 else (0, 0)
    if version not in HEADER_READERS:
        raise refuse(f"npy version {version[0]}.{version[1]}", "1.0, 2.0 or 3.0")
    # Versions 2.0 and 3.0 may announce a header of 4 GB, which numpy would read before it checks the length.
    length = int.from_bytes(start[8 : 10 if version == (1, 0) else 12], "little")
    if length > MAX_HEADER_BYTES:
        raise refuse(f"a header of {length:,} bytes", f"at most {MAX_HEADER_BYTES:,}")
    file.seek(8)
    try:
        shape, fortran_order, dtype = _parsed(HEADER_READERS[version], file)
    except UNPARSABLE as error:
        raise refuse(f"a header that does not parse ({first_line(error)})", "numpy's header") from error
    return shape, fortran_order, dtype


def _parsed(
    reader: Callable[..., tuple[tuple[int, ...], bool, np.dtype[np.floating]]], file: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[np.floating]]:
    start = file.tell()
    with ONE_PARSER:
        try:
            return reader(file, max_header_size=MAX_HEADER_BYTES)
        except SystemError:
            # An error of the interpreter, not of the header: the second try succeeds.
            file.seek(start)
            return reader(file, max_header_size=MAX_HEADER_BYTES)


class NpyReader:
    """Reads one npy file in order, block by block, as float32; memory is one block, whatever the file's size.

    It uses plain reads instead of a mapping: mapped pages count as resident memory (2.4 GB a shard when measured).
    """

    def __init__(self, path: Path, header: NpyHeader, *, subject: str, block_rows: int) -> None:
        self._header = header
        self._subject = subject
        self._row = 0
        self._file = path.open("rb", buffering=0)
        self._file.seek(header.offset)
        self._raw = np.empty((block_rows, header.dimension), dtype=header.dtype)
        self._mapped: npt.NDArray[np.floating] | None = None
        if header.fortran_order:
            # In column order a row's values are spread over the whole file, so the file is mapped.
            shape = (header.rows, header.dimension)
            self._mapped = np.memmap(path, header.dtype, "r", header.offset, shape, "F") if header.rows else self._raw

    def __enter__(self) -> NpyReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read_into(self, out: Float32Rows) -> None:
        """Fills `out`, float32 (n, dimension), with the next n rows. Values too large for float32 become infinite.

        Raises `ShardFileError` if the file ends early (it was cut after its header was read).
        """
        rows = len(out)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._mapped is not None:
                out[:] = self._mapped[self._row : self._row + rows]
            elif self._header.dtype == out.dtype:
                self._fill(out)
            else:
                raw = self._raw[:rows]
                self._fill(raw)
                out[:] = raw
        self._row += rows

    def _fill(self, block: npt.NDArray[np.floating]) -> None:
        view = block.data.cast("B") if block.size else memoryview(b"")
        done = 0
        while done < len(view):
            count = os.readv(self._file.fileno(), [view[done:]])
            if not count:
                raise ShardFileError(
                    self._subject, found=f"the end of the file in row {self._row:,}", expected=f"{self._header.rows:,}"
                )
            done += count
