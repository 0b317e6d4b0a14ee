"""Named ways to damage a metadata file, each with the outcome that the product must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

from laion_assets_tests.torture.spoil_npy import REFUSED, TAKEN, Spoil, Spoils
from laion_assets_tests.torture.truth import RawFiles


def bytes_of(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the bytes of the metadata file."""

    def spoil(files: RawFiles) -> None:
        files.metadata.write_bytes(change(files.metadata.read_bytes()))

    return spoil


def table_of(change: Callable[[pa.Table], pa.Table], **options: Any) -> Spoil:
    """Writes the metadata file again, changed."""

    def spoil(files: RawFiles) -> None:
        pq.write_table(change(pq.read_table(files.metadata)), files.metadata, **options)

    return spoil


def column(name: str, change: Callable[[pa.ChunkedArray], Any]) -> Spoil:
    """Changes one column."""

    def changed(table: pa.Table) -> pa.Table:
        return table.set_column(table.column_names.index(name), name, pa.chunked_array([change(table[name])]))

    return table_of(changed)


def without(name: str) -> Spoil:
    """Removes a column."""
    return table_of(lambda table: table.drop_columns([name]))


def renamed(**names: str) -> Spoil:
    """Renames columns."""
    return table_of(lambda table: table.rename_columns([names.get(name, name) for name in table.column_names]))


def footer_of(content: bytes) -> int:
    """The position of the footer's first byte."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def in_footer(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the footer and writes its new length."""

    def changed(content: bytes) -> bytes:
        start = footer_of(content)
        footer = change(content[start:-8])
        return content[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"

    return bytes_of(changed)


def footer_length(change: Callable[[int], int]) -> Spoil:
    """Writes a wrong length of the footer."""

    def changed(content: bytes) -> bytes:
        length = change(int.from_bytes(content[-8:-4], "little"))
        return content[:-8] + (length % 2**32).to_bytes(4, "little") + b"PAR1"

    return bytes_of(changed)


def page(name: str, change: Callable[[bytes], bytes], **options: Any) -> Spoil:
    """Changes the bytes of one column's pages, which are written with these options."""

    def spoil(files: RawFiles) -> None:
        pq.write_table(pq.read_table(files.metadata), files.metadata, **{"compression": "snappy", **options})
        group = pq.read_metadata(files.metadata).row_group(0)
        chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == name)
        first = chunk.dictionary_page_offset or chunk.data_page_offset
        content = files.metadata.read_bytes()
        end = first + chunk.total_compressed_size
        files.metadata.write_bytes(content[:first] + change(content[first:end]) + content[end:])

    return spoil


def count_told(old: int, new: int, *, times: int = -1) -> Spoil:
    """Replaces a number in the footer by a wrong one. Thrift writes such numbers as zigzag varints of two bytes."""
    return in_footer(lambda footer: footer.replace(varint(2 * old), varint(2 * new), times))


def varint(number: int) -> bytes:
    """A number as a varint of two bytes."""
    return bytes([number & 0x7F | 0x80, number >> 7])


def _middle(put: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[: len(content) // 2] + put + content[len(content) // 2 + len(put) :]


def _wide(table: pa.Table) -> pa.Table:
    names = [f"column_{number}" for number in range(10_000)]
    return pa.table([pa.nulls(table.num_rows)] * len(names), names=names)


def _and_wide(table: pa.Table) -> pa.Table:
    wide = _wide(table)
    return pa.Table.from_arrays([*wide.columns, *table.columns], names=[*wide.column_names, *table.column_names])


def _doubled(table: pa.Table) -> pa.Table:
    return pa.Table.from_arrays([*table.columns, table["caption"]], names=[*table.column_names, "caption"])


def _odd_texts(_: pa.ChunkedArray) -> pa.Array:
    odd = [b"\xff\xfe", b"\x00", b'"quoted", \'\n', None, "ñ".encode(), b"x" * 70_000]
    return pa.array([odd[row % len(odd)] for row in range(250)], pa.binary())


FILES: Spoils = {
    "parquet: empty": (REFUSED, bytes_of(lambda _: b"")),
    "parquet: its magic alone": (REFUSED, bytes_of(lambda _: b"PAR1")),
    "parquet: its magic twice": (REFUSED, bytes_of(lambda _: b"PAR1" + bytes(8) + b"PAR1")),
    "parquet: cut by a byte": (REFUSED, bytes_of(lambda content: content[:-1])),
    "parquet: cut to a half": (REFUSED, bytes_of(lambda content: content[: len(content) // 2])),
    "parquet: cut before its footer": (REFUSED, bytes_of(lambda content: content[: footer_of(content)])),
    "parquet: its footer alone": (REFUSED, bytes_of(lambda content: b"PAR1" + content[footer_of(content) :])),
    "parquet: longer by a byte": (REFUSED, bytes_of(lambda content: content + b"\x00")),
    "parquet: another magic at the start": (REFUSED, bytes_of(lambda content: b"PARX" + content[4:])),
    "parquet: another magic at the end": (REFUSED, bytes_of(lambda content: content[:-4] + b"PARE")),
    "parquet: zeros": (REFUSED, bytes_of(lambda content: bytes(len(content)))),
    "parquet: a page that says 404": (REFUSED, bytes_of(lambda _: b"<html>404</html>")),
    "parquet: CSV": (REFUSED, bytes_of(lambda _: b"url,caption,NSFW,similarity\na,b,UNLIKELY,0.3\n")),
    "parquet: JSON lines": (REFUSED, bytes_of(lambda _: b'{"url": "a"}\n' * 250)),
    "parquet: Arrow's own format": (
        REFUSED,
        lambda files: feather.write_feather(pq.read_table(files.metadata), str(files.metadata)),
    ),
    "parquet: the image file": (REFUSED, lambda files: files.metadata.write_bytes(files.image.read_bytes())),
    "footer: length 0": (REFUSED, footer_length(lambda _: 0)),
    "footer: length too small": (REFUSED, footer_length(lambda length: length - 10)),
    "footer: length too large": (REFUSED, footer_length(lambda length: length + 10)),
    "footer: length 4 GB": (REFUSED, footer_length(lambda _: 2**32 - 1)),
    "footer: zeros": (REFUSED, in_footer(lambda footer: bytes(len(footer)))),
    "footer: cut": (REFUSED, in_footer(lambda footer: footer[: len(footer) // 2])),
    "footer: random bytes": (REFUSED, in_footer(lambda footer: np.random.default_rng(4).bytes(len(footer)))),
    "footer: more rows than there are, everywhere": (REFUSED, count_told(250, 400)),
    "footer: less rows than there are, everywhere": (REFUSED, count_told(250, 200)),
    "footer: more rows than in the groups": (REFUSED, count_told(250, 400, times=1)),
    "footer: less rows than in the groups": (REFUSED, count_told(250, 249, times=1)),
    "page: zeros in captions": (REFUSED, page("caption", _middle(bytes(64)), use_dictionary=False)),
    "page: ones in captions": (REFUSED, page("caption", _middle(b"\xff" * 64), use_dictionary=False)),
    "page: random bytes for URLs": (
        REFUSED,
        page("url", lambda content: np.random.default_rng(5).bytes(len(content)), use_dictionary=False),
    ),
    "page: header of captions gone": (REFUSED, page("caption", lambda content: bytes(24) + content[24:])),
    "page: dictionary of NSFW gone": (REFUSED, page("NSFW", lambda content: b"\xff" * 30 + content[30:])),
    "page: one byte of a caption, unpacked": (
        TAKEN,
        page("caption", _middle(b"Z"), use_dictionary=False, compression="none"),
    ),
    "page: one byte of a caption, with a checksum": (
        REFUSED,
        page("caption", _middle(b"Z"), use_dictionary=False, compression="none", write_page_checksum=True),
    ),
}

COLUMNS: Spoils = {
    **{f"column {name} missing": (REFUSED, without(name)) for name in ("url", "caption", "NSFW", "similarity")},
    **{f"column {name} of another name": (REFUSED, renamed(**{name: f"{name}s"})) for name in ("url", "caption")},
    "column Caption in capitals": (REFUSED, renamed(caption="Caption")),
    "column caption called TEXT": (TAKEN, renamed(caption="TEXT", url="URL")),
    "columns url and caption exchanged": (TAKEN, renamed(caption="url", url="caption")),
    "columns: two of one name": (REFUSED, table_of(_doubled)),
    "columns: none": (REFUSED, table_of(lambda table: table.select([]))),
    "columns: 10,000 and none of ours": (REFUSED, table_of(_wide)),
    "columns: 10,000 and ours": (TAKEN, table_of(_and_wide)),
    "caption: numbers": (REFUSED, column("caption", lambda _: pa.array(range(250)))),
    "caption: lists": (TAKEN, column("caption", lambda _: pa.array([["a"]] * 250))),
    "caption: structures": (REFUSED, column("caption", lambda _: pa.array([{"a": 1}] * 250))),
    "caption: one of 70 MB": (REFUSED, column("caption", lambda _: pa.array(["x" * 70_000_000, *["y"] * 249]))),
    "caption: odd bytes": (TAKEN, column("caption", _odd_texts)),
    "caption: nulls only": (REFUSED, column("caption", lambda _: pa.nulls(250))),
    "caption: large strings": (TAKEN, column("caption", lambda array: array.cast(pa.large_string()).combine_chunks())),
    "caption: a dictionary": (TAKEN, column("caption", lambda array: array.combine_chunks().dictionary_encode())),
    "url: booleans": (REFUSED, column("url", lambda _: pa.array([True] * 250))),
    "NSFW: numbers": (TAKEN, column("NSFW", lambda _: pa.array([0.5] * 250))),
    "similarity: words": (REFUSED, column("similarity", lambda _: pa.array(["high"] * 250))),
    "similarity: lists": (REFUSED, column("similarity", lambda _: pa.array([[0.3]] * 250))),
    "similarity: dates": (REFUSED, column("similarity", lambda _: pa.array([1] * 250, pa.timestamp("s")))),
    "similarity: NaN, infinite and 6016": (
        TAKEN,
        column("similarity", lambda _: pa.array([[np.nan, np.inf, 6016.0, None, 1e300][n % 5] for n in range(250)])),
    ),
    "similarity: turned round": (REFUSED, column("similarity", lambda array: pa.array(array.to_pylist()[::-1]))),
    "rows: none": (REFUSED, table_of(lambda table: table.slice(0, 0))),
    "rows: one less": (REFUSED, table_of(lambda table: table.slice(1))),
    "rows: one more": (REFUSED, table_of(lambda table: pa.concat_tables([table, table.slice(0, 1)]))),
    "rows: metadata reversed": (REFUSED, table_of(lambda table: table.take(list(range(249, -1, -1))))),
    "rows: metadata slipped by one": (REFUSED, table_of(lambda table: table.take([*range(1, 250), 0]))),
    "rows: in seven groups": (TAKEN, table_of(lambda table: table, row_group_size=37)),
    "rows: packed by gzip": (TAKEN, table_of(lambda table: table, compression="gzip")),
    "rows: in pages of version 2": (TAKEN, table_of(lambda table: table, data_page_version="2.0")),
}
