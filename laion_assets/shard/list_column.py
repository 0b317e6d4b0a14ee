"""Reads a Parquet column of lists of numbers as vectors, in blocks of rows, and says which rows are not vectors."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as of

from laion_assets.errors import ShardFileError, first_line
from laion_assets.read_ahead import read_ahead
from laion_assets.shard.vector_rows import Float32Rows, RowFaults, VectorHeader

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""Errors that pyarrow raises for a damaged file; the last one is for names that are not UTF-8."""

MOST_BYTES_A_NUMBER = 16
"""Bytes a value, twice a float64: a column with more has another dimension. This limits the memory of one block."""


def read_list_header(path: Path, column: str, *, subject: str, dimension: int, advice: str) -> VectorHeader:
    """The footer's facts about a column. Raises `ShardFileError` unless it is a column of lists of floats.

    Lists have their own length in each row, so only lists of a fixed size can be refused here for their dimension.
    """
    file = _open(path, subject)
    with file:
        return _header(file, column, subject, dimension, advice)


def list_kind(kind: pa.DataType) -> tuple[np.dtype[np.floating], int | None] | None:
    """The dtype of the numbers of a list type, and their count if it is fixed; None for any other type."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    lists = (of.is_list, of.is_large_list, of.is_fixed_size_list, of.is_list_view, of.is_large_list_view)
    if not any(is_kind(kind) for is_kind in lists) or not of.is_floating(kind.value_type):
        return None
    return np.dtype(kind.value_type.to_pandas_dtype()), kind.list_size if of.is_fixed_size_list(kind) else None


def _open(path: Path, subject: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except UNREADABLE as error:
        raise _unreadable(subject, error) from error


def _header(file: pq.ParquetFile, column: str, subject: str, dimension: int, advice: str) -> VectorHeader:
    try:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
    except UNREADABLE as error:
        raise _unreadable(subject, error) from error
    found = schema.names.count(column)
    if found != 1:
        shown = ", ".join(schema.names[:20]) + (f" and {len(schema.names) - 20} more" if len(schema.names) > 20 else "")
        raise ShardFileError(
            subject,
            found=f"{found} columns named {column}" if found else f"no column {column} among: {shown}",
            expected="one column of vectors",
            advice="name it under image_array or text_array in the dataset's TOML file",
        )
    kind = list_kind(schema.field(column).type)
    if kind is None:
        raise ShardFileError(
            subject, found=f"column {column} of type {schema.field(column).type}", expected="lists of floats"
        )
    dtype, fixed = kind
    if fixed is not None and fixed != dimension:
        raise ShardFileError(
            subject, found=f"column {column} of {fixed} numbers", expected=f"{dimension}", advice=advice
        )
    limit = max(rows, 1_000) * dimension * MOST_BYTES_A_NUMBER
    # Columns are checked one by one only if all together are too large: pyarrow 26 ends the process on a column whose
    # entry in the footer is damaged.
    if size > limit:
        chunks = (group.column(index) for group in groups for index in range(group.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.startswith(f"{column}."))
    if size > limit:
        raise ShardFileError(
            subject,
            found=f"{size:,} bytes in column {column} for {rows:,} rows",
            expected=f"at most {limit:,} for dimension {dimension}",
            advice=advice,
        )
    return VectorHeader(rows, dimension, dtype)


class ListColumnReader:
    """Reads one column of lists in order, block by block, as float32.

    A row is refused if its list is null, has nulls in it, or has not the dataset's dimension. The next block is decoded
    in a thread while the current one is used.
    """

    def __init__(self, path: Path, column: str, header: VectorHeader, *, subject: str, block_rows: int) -> None:
        self._subject = subject
        self._header = header
        self._column = column
        self._file = _open(path, subject)
        self._batches = read_ahead(self._read(block_rows))
        self._batch: pa.Array = pa.array([], pa.list_(pa.float32()))
        self._row = 0

    def __enter__(self) -> ListColumnReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._batches.close()
        self._file.close()

    def read_into(self, out: Float32Rows) -> RowFaults | None:
        """Fills `out`, float32 (n, dimension), with the next n rows: see `VectorReader`."""
        faults: RowFaults | None = None
        done = 0
        while done < len(out):
            while not len(self._batch):
                self._batch = self._next()
            rows = min(len(out) - done, len(self._batch))
            found = _convert(self._batch.slice(0, rows), out[done : done + rows])
            if found is not None:
                faults = np.full(len(out), "", dtype=object) if faults is None else faults
                faults[done : done + rows] = found
            self._batch = self._batch.slice(rows)
            done += rows
            self._row += rows
        return faults

    def _next(self) -> pa.Array:
        try:
            return next(self._batches)
        except StopIteration:
            raise ShardFileError(
                self._subject, found=f"{self._row:,} rows", expected=f"{self._header.rows:,}, as its footer says"
            ) from None
        except UNREADABLE as error:
            raise _unreadable(self._subject, error) from error

    def _read(self, block_rows: int) -> Generator[pa.Array, None, None]:
        for batch in self._file.iter_batches(block_rows, columns=[self._column], use_threads=False):
            yield _as_list(batch.column(0))


def _as_list(column: pa.Array) -> pa.Array:
    """Turns views, extension types and lists of a fixed size into lists with offsets, without copying the numbers."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if of.is_list(column.type) or of.is_large_list(column.type):
        return column
    return column.cast(pa.large_list(column.type.value_type))


def _convert(lists: pa.Array, out: Float32Rows) -> RowFaults | None:
    dimension = out.shape[1]
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    right = lengths == dimension
    numbers = (lists if right.all() else lists.filter(pa.array(right))).flatten()
    with np.errstate(over="ignore", invalid="ignore"):
        if right.all() and not numbers.null_count:
            out[:] = numbers.to_numpy().reshape(-1, dimension)
            return None
        faults = np.full(len(out), "", dtype=object)
        for row in np.flatnonzero(~right):
            faults[row] = "null" if lengths[row] < 0 else f"dimension {lengths[row]}"
        with_nulls = numbers.is_null().to_numpy(zero_copy_only=False).reshape(-1, dimension).any(axis=1)
        faults[np.flatnonzero(right)[with_nulls]] = "with nulls in it"
        out[~right] = 0
        out[right] = pc.fill_null(numbers.cast(pa.float64()), 0.0).to_numpy().reshape(-1, dimension)
    return faults if (faults != "").any() else None


def _unreadable(subject: str, error: Exception) -> ShardFileError:
    return ShardFileError(
        subject, found=first_line(error), expected="a sound Parquet file", advice="fetch the file again"
    )
