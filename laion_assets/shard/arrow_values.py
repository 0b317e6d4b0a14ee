"""A metadata column of any Arrow type as one of the table's types, by the rules in docs/datasets.md. Reads no file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as of

from laion_assets.columns import INTEGER_BITS, ColumnType
from laion_assets.errors import ShardFileError

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "String": pa.string(),
    "Bool": pa.bool_(),
    "Int8": pa.int8(),
    "Int16": pa.int16(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Float32": pa.float32(),
    "Float64": pa.float64(),
}
"""The Arrow type of each kind of column in a merged file."""

VIEWS = (pa.string_view(), pa.binary_view())
"""Types of Polars' text and binary columns."""


def as_type(column: pa.ChunkedArray, kind: ColumnType, *, subject: str, first_row: int, text_only: bool) -> pa.Array:
    """One contiguous array of the Arrow type for `kind`, with nulls; the bytes of text are not checked.

    `first_row` is the file's row at which the column begins. With `text_only` numbers are not accepted as text. Raises
    `ShardFileError`, which names the row with a value that does not fit.
    """
    array = _plain(column.combine_chunks())
    if kind == "String":
        return _as_text(array, subject=subject, text_only=text_only)
    if _is_text(array.type):
        array = _empty_as_null(array)
    if of.is_floating(array.type) and kind in INTEGER_BITS:
        array = _whole_numbers(array, kind, subject, first_row)
    if kind == "Bool" and (of.is_floating(array.type) or of.is_integer(array.type) or of.is_decimal(array.type)):
        array = _zeros_and_ones(array, subject, first_row)
    try:
        return _cast(array, ARROW_TYPES[kind])
    except (pa.ArrowException, OverflowError) as error:
        reason = (str(error).splitlines() or ["?"])[0][:160]
        raise ShardFileError(
            subject,
            found=f"{reason}{_first_misfit(array, kind, first_row)}",
            expected=f"values of {kind}",
            advice="correct the metadata, or give the column another type under [extra_columns]",
        ) from error


def _plain(array: pa.Array) -> pa.Array:
    """Replaces extension types, dictionaries and views of lists by plain types with the same values."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if of.is_dictionary(array.type):
        array = array.dictionary_decode()
    if of.is_list_view(array.type) or of.is_large_list_view(array.type) or of.is_fixed_size_list(array.type):
        array = array.cast(pa.large_list(array.type.value_type))
    return array


def _as_text(array: pa.Array, *, subject: str, text_only: bool) -> pa.Array:
    """Text unchanged; the first element of a list; numbers, booleans, dates and times as Arrow writes them."""
    if of.is_list(array.type) or of.is_large_list(array.type):
        starts = pc.if_else(pc.greater(pc.list_value_length(array), 0), array.offsets.slice(0, len(array)), None)
        return _as_text(_plain(array.values.take(starts)), subject=subject, text_only=text_only)
    written = (of.is_boolean, of.is_integer, of.is_floating, of.is_decimal, of.is_temporal)
    if not _is_text(array.type) and not of.is_null(array.type):
        if text_only or not any(is_kind(array.type) for is_kind in written):
            raise ShardFileError(subject, found=f"type {array.type}", expected="text", advice="correct the metadata")
        if of.is_floating(array.type):
            array = _nan_as_null(array)
    return _cast(array, pa.string())


def _is_text(kind: pa.DataType) -> bool:
    """Whether a type is any of Arrow's kinds of text and bytes."""
    return (
        kind in VIEWS
        or of.is_string(kind)
        or of.is_large_string(kind)
        or of.is_binary(kind)
        or of.is_large_binary(kind)
        or of.is_fixed_size_binary(kind)
    )


def _whole_numbers(array: pa.Array, kind: ColumnType, subject: str, first_row: int) -> pa.Array:
    """Integers with gaps, which pandas turned into floats: NaN becomes null. A value that is not an integer of the type
    is refused; a cast would turn it into -2147483648."""
    array = _nan_as_null(array).cast(pa.float64())
    values = array.to_numpy(zero_copy_only=False)
    bits = INTEGER_BITS[kind]
    low, high = (0.0, 2.0**bits) if kind.startswith("U") else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1))
    wrong = np.flatnonzero(~np.isnan(values) & ~((values >= low) & (values < high) & (np.trunc(values) == values)))
    if len(wrong):
        raise ShardFileError(
            subject,
            found=f"{values[wrong[0]]} in row {first_row + int(wrong[0]):,}",
            expected=f"whole numbers of {kind}, or NaN for none",
            advice="correct the metadata, or give the column another type under [extra_columns]",
        )
    return array


def _zeros_and_ones(array: pa.Array, subject: str, first_row: int) -> pa.Array:
    """Truth values as numbers: NaN becomes null. A number other than 0 and 1 is refused; a cast would make it true."""
    array = array.cast(pa.float64()) if of.is_decimal(array.type) else array
    array = _nan_as_null(array) if of.is_floating(array.type) else array
    wrong = pc.indices_nonzero(pc.fill_null(pc.and_(pc.not_equal(array, 0), pc.not_equal(array, 1)), False))
    if len(wrong):
        row = wrong[0].as_py()
        raise ShardFileError(
            subject,
            found=f"{array[row]} in row {first_row + row:,}",
            expected="0 or 1, true or false, or a null",
            advice="correct the metadata, or give the column another type under [extra_columns]",
        )
    return array


def _nan_as_null(array: pa.Array) -> pa.Array:
    if of.is_float16(array.type):
        array = array.cast(pa.float32())
    return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)


def _empty_as_null(array: pa.Array) -> pa.Array:
    """If numbers are written as text, an empty text becomes null."""
    array = _cast(array, pa.string())
    return pc.if_else(pc.equal(pc.binary_length(array), 0), pa.scalar(None, pa.string()), array)


def _first_misfit(array: pa.Array, kind: ColumnType, first_row: int) -> str:
    """The place of the first value that cannot be cast, found by bisection; empty if all values can be cast."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _cast(array.slice(low, middle - low), ARROW_TYPES[kind])
        except (pa.ArrowException, OverflowError):
            high = middle
        else:
            low = middle
    return f" in row {first_row + low:,}" if len(array) > 1 else ""


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """The array with its values unchanged, but floats and decimals rounded to the nearest float of `target`. Raises an
    error of Arrow's for whole numbers beyond those that a float holds exactly."""
    return pc.cast(array, options=pc.CastOptions(target, allow_invalid_utf8=True))
