"""Numbers of variable length (LEB128). RowBinary and Thrift's compact protocol write lengths so."""

from __future__ import annotations


def varint(number: int) -> bytes:
    """The number, 0 to 2^64 - 1, in groups of seven bits, the lowest first; all bytes but the last have bit 128."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
