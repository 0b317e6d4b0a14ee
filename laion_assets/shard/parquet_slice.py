"""Some row groups of a Parquet file as a Parquet file of its own: which bytes it needs, and the footer for them.

Pages are copied unchanged. Only the footer is written again, with other offsets. Field numbers are those of
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from laion_assets.file_layout import Slice
from laion_assets.shard.thrift_compact import (
    I16,
    I64,
    INTEGERS,
    ThriftField,
    ThriftList,
    ThriftStruct,
    read_struct,
    write_struct,
)

MAGIC = b"PAR1"
TAIL_BYTES = 8
"""The footer's length in four bytes, and the magic bytes."""

MOST_FOOTER_BYTES = 64 << 20
"""Most bytes of a footer that is read into memory; one of 1,000 row groups of 15 columns has some 2 MB."""

NUM_ROWS, ROW_GROUPS = 3, 4
GROUP_COLUMNS, GROUP_ROWS, GROUP_OFFSET, GROUP_ORDINAL = 1, 3, 5, 7
CHUNK_PATH, CHUNK_OFFSET, CHUNK_META, CHUNK_CRYPTO, CHUNK_ENCRYPTED = 1, 2, 3, 8, 9
CHUNK_INDEXES = (4, 5, 6, 7)
"""Offsets and lengths of the page indexes, which are elsewhere in the file and not needed to read it."""

META_BYTES, META_DATA, META_DICTIONARY = 7, 9, 11
META_ELSEWHERE = (10, 14, 15)
"""Index pages (never written) and bloom filters."""

GAP_BYTES = 1 << 16
"""Gaps of up to this many bytes between two column chunks are fetched, too: another request would cost as much."""

MOST_GAPS = 0.02
"""The most by which gaps may increase the bytes of the row groups."""


class NoRowGroupsError(ValueError):
    """A file has no row group for one of its shares."""


@dataclass(frozen=True)
class ParquetSlice:
    """A file with a share of the row groups: `PAR1`, the bytes of `ranges` (first, end) of the whole file, `footer`."""

    ranges: tuple[tuple[int, int], ...]
    footer: bytes
    rows: int
    row_groups: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(MAGIC) + sum(end - first for first, end in self.ranges) + len(self.footer)


def footer_length(tail: bytes, size: int) -> int:
    """Bytes of the footer of a Parquet file of `size` bytes that ends in `tail` (`TAIL_BYTES`).

    Raises `ValueError` for a file that is not a Parquet file, or is encrypted.
    """
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != MAGIC or length + TAIL_BYTES + len(MAGIC) > size:
        raise ValueError(f"an end of {tail!r}")
    if length > MOST_FOOTER_BYTES:
        raise ValueError(f"a footer of {length:,} bytes")
    return length


def slice_parquet(footer: bytes, first_byte: int, share: Slice) -> ParquetSlice:
    """The share of a file whose footer is `footer`, which begins at `first_byte`.

    A row group belongs to the share in which the middle of its rows is. So shares differ by one row group at most, and
    each row group is in one share. Raises `ValueError` if the footer is damaged, and `NoRowGroupsError` if no row group
    is in the share.
    """
    whole = read_struct(footer)
    # For a row group without rows pyarrow writes chunks without a beginning.
    groups = [group for group in _structs(whole, ROW_GROUPS) if _integer(group, GROUP_ROWS)]
    rows = [_integer(group, GROUP_ROWS) for group in groups]
    if sum(rows) != _integer(whole, NUM_ROWS) or any(count < 0 for count in rows):
        raise ValueError(f"{sum(rows):,} rows in its row groups, {_integer(whole, NUM_ROWS):,} in all")
    chosen = [
        group for group, share_of in zip(groups, _shares(rows, share.count), strict=True) if share_of == share.index
    ]
    if not chosen:
        raise NoRowGroupsError(
            f"{len(groups)} row groups of {sum(rows):,} rows, of which none is in share {share.index} of {share.count}"
        )
    ranges = _joined(sorted(_extent(chunk, first_byte) for group in chosen for chunk in _structs(group, GROUP_COLUMNS)))
    starts = dict(zip((first for first, _ in ranges), _starts(ranges), strict=True))
    for ordinal, group in enumerate(chosen):
        _move(group, ordinal, ranges, starts, first_byte)
    kept = sum(_integer(group, GROUP_ROWS) for group in chosen)
    whole[NUM_ROWS] = ThriftField(I64, kept)
    whole[ROW_GROUPS] = ThriftField(whole[ROW_GROUPS].kind, ThriftList(12, list(chosen)))
    written = write_struct(whole)
    return ParquetSlice(ranges, written + len(written).to_bytes(4, "little") + MAGIC, kept, len(chosen))


def _shares(rows: list[int], count: int) -> list[int]:
    """The share that each row group belongs to."""
    total = sum(rows)
    return [(2 * end - size) * count // (2 * total) for size, end in zip(rows, accumulate(rows), strict=True)]


def _extent(chunk: ThriftStruct, limit: int) -> tuple[int, int]:
    """First byte and end of a column chunk."""
    if CHUNK_PATH in chunk or CHUNK_CRYPTO in chunk or CHUNK_ENCRYPTED in chunk:
        raise ValueError("columns that are encrypted or in another file")
    meta = _meta(chunk)
    first = _integer(meta, META_DATA)
    dictionary = _integer(meta, META_DICTIONARY) if META_DICTIONARY in meta else 0
    if 0 < dictionary < first:  # some writers write 0 if there is none
        first = dictionary
    end = first + _integer(meta, META_BYTES)
    if not len(MAGIC) <= first <= end <= limit:
        raise ValueError(f"a column chunk from byte {first:,} to {end:,}, before a footer at {limit:,}")
    return first, end


def _joined(extents: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Extents in order; neighbours with small gaps are joined."""
    needed = sum(end - first for first, end in extents)
    left = int(needed * MOST_GAPS)
    joined: list[tuple[int, int]] = []
    for first, end in extents:
        gap = first - joined[-1][1] if joined else 0
        if joined and gap <= min(GAP_BYTES, left):
            left -= max(gap, 0)
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((first, end))
    return tuple(joined)


def _starts(ranges: tuple[tuple[int, int], ...]) -> list[int]:
    """The position of each range in the new file."""
    return [*accumulate((end - first for first, end in ranges[:-1]), initial=len(MAGIC))]


def _move(
    group: ThriftStruct, ordinal: int, ranges: tuple[tuple[int, int], ...], starts: dict[int, int], limit: int
) -> None:
    """Writes the new offsets into a row group, and removes the offsets of parts that are not copied."""
    first_of_group = None
    for chunk in _structs(group, GROUP_COLUMNS):
        first, _ = _extent(chunk, limit)
        begin = next(begin for begin, end in ranges if begin <= first <= end)
        moved = starts[begin] - begin
        meta = _meta(chunk)
        for number in (META_DATA, META_DICTIONARY):
            if number in meta and _integer(meta, number) > 0:
                meta[number] = ThriftField(I64, _integer(meta, number) + moved)
        for number in META_ELSEWHERE:
            meta.pop(number, None)
        for number in CHUNK_INDEXES:
            chunk.pop(number, None)
        chunk[CHUNK_OFFSET] = ThriftField(I64, 0)  # deprecated in the format: readers use the offsets in the metadata
        first_of_group = first + moved if first_of_group is None else min(first_of_group, first + moved)
    if GROUP_OFFSET in group:
        group[GROUP_OFFSET] = ThriftField(I64, first_of_group or 0)
    if GROUP_ORDINAL in group:
        group[GROUP_ORDINAL] = ThriftField(I16, ordinal)


def _structs(struct: ThriftStruct, number: int) -> list[ThriftStruct]:
    field = struct.get(number)
    if field is None or not isinstance(field.value, ThriftList):
        raise ValueError(f"no list in field {number}")
    items = [item for item in field.value.items if isinstance(item, dict)]
    if len(items) != len(field.value.items):
        raise ValueError(f"no structs in field {number}")
    return items


def _meta(chunk: ThriftStruct) -> ThriftStruct:
    field = chunk.get(CHUNK_META)
    if field is None or not isinstance(field.value, dict):
        raise ValueError("a column chunk without metadata")
    return field.value


def _integer(struct: ThriftStruct, number: int) -> int:
    field = struct.get(number)
    if field is None or field.kind not in INTEGERS or not isinstance(field.value, int):
        raise ValueError(f"no integer in field {number}")
    return field.value
