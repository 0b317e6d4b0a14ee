"""Reads and writes Thrift's compact protocol, whatever the structs mean. Parquet footers are written in it.

Rules: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. pyarrow reads footers, but it
cannot write one with other offsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from laion_assets.varint import varint

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
INTEGERS = (I16, I32, I64)

MOST_NESTED = 32
"""Most levels of structs within structs; a footer has 7 levels."""

LONG_LIST = 15
"""This value instead of a list's length means that the length follows in bytes of its own."""


@dataclass
class ThriftList:
    """A list or set: the type of its elements, and the elements."""

    kind: int
    items: list[ThriftValue]


@dataclass
class ThriftField:
    """A field of a struct: its type and value."""

    kind: int
    value: ThriftValue


ThriftStruct: TypeAlias = "dict[int, ThriftField]"
"""Fields by number, in their order."""

ThriftValue: TypeAlias = "bool | int | bytes | ThriftList | ThriftStruct"
"""A value. Doubles are kept as their eight bytes."""


def read_struct(data: bytes) -> ThriftStruct:
    """The struct at the beginning of `data`. Raises `ValueError` if there is none."""
    try:
        return _Reader(data).struct(0)
    except IndexError:
        raise ValueError("a struct that is cut") from None


def write_struct(struct: ThriftStruct) -> bytes:
    """The bytes of a struct."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int) -> ThriftStruct:
        if depth > MOST_NESTED:
            raise ValueError(f"more than {MOST_NESTED} structs within one another")
        fields: ThriftStruct = {}
        number = 0
        while header := self._byte():
            step, kind = header >> 4, header & 0xF
            number = number + step if step else self._zigzag()
            fields[number] = ThriftField(kind, self._value(kind, depth))
        return fields

    def _value(self, kind: int, depth: int) -> ThriftValue:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in INTEGERS or kind == BYTE:
            return self._byte() if kind == BYTE else self._zigzag()
        if kind in (DOUBLE, BINARY):
            return self._bytes(8 if kind == DOUBLE else self._varint())
        if kind in (LIST, SET):
            return self._list(depth)
        if kind == STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"a field of type {kind}")

    def _list(self, depth: int) -> ThriftList:
        header = self._byte()
        kind, count = header & 0xF, header >> 4
        count = self._varint() if count == LONG_LIST else count
        if count > len(self._data) - self._at:
            raise ValueError(f"a list of {count} in {len(self._data) - self._at} bytes")
        if kind in (TRUE, FALSE):  # in lists each value is a byte of its own
            return ThriftList(kind, [self._byte() == TRUE for _ in range(count)])
        return ThriftList(kind, [self._value(kind, depth + 1) for _ in range(count)])

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _bytes(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ValueError(f"{count} bytes of which {len(self._data) - self._at} are there")
        self._at += count
        return self._data[self._at - count : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _write_struct(out: bytearray, struct: ThriftStruct) -> None:
    before = 0
    for number, field in struct.items():
        kind = field.kind
        if kind in (TRUE, FALSE):
            kind = TRUE if field.value else FALSE
        if 0 < number - before <= 15:
            out.append((number - before) << 4 | kind)
        else:
            out.append(kind)
            out += varint(_zigzagged(number))
        before = number
        if kind not in (TRUE, FALSE):
            _write_value(out, kind, field.value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: ThriftValue) -> None:
    if isinstance(value, ThriftList):
        count = len(value.items)
        out.append(min(count, LONG_LIST) << 4 | value.kind)
        if count >= LONG_LIST:
            out += varint(count)
        for item in value.items:
            _write_value(out, value.kind, item)
    elif isinstance(value, dict):
        _write_struct(out, value)
    elif isinstance(value, bytes):
        if kind == BINARY:
            out += varint(len(value))
        out += value
    elif isinstance(value, bool):
        out.append(TRUE if value else FALSE)
    elif kind == BYTE:
        out.append(value)
    else:
        out += varint(_zigzagged(value))


def _zigzagged(value: int) -> int:
    return ((value << 1) ^ (value >> 63)) & (1 << 64) - 1
