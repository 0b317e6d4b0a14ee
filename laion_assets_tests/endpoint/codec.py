"""Reads and writes HTTP bodies in pieces: chunked or with Content-Length, compressed or not."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator
from email.message import Message
from io import BufferedIOBase
from typing import Any

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 16

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "lz4": lz4.frame.LZ4FrameDecompressor,
    "zstd": zstd.ZstdDecompressor,
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "deflate": zlib.decompressobj,
}


class BrokenBodyError(ConnectionError):
    """The client closed the connection in the middle of a body."""


def body_pieces(stream: BufferedIOBase, headers: Message) -> Iterator[bytes]:
    """The body as it was sent, without chunk framing. Raises `BrokenBodyError` if it ends early."""
    if "chunked" in (headers.get("Transfer-Encoding") or ""):
        yield from _chunks(stream)
        return
    left = int(headers.get("Content-Length") or 0)
    while left:
        piece = stream.read(min(left, PIECE_BYTES))
        if not piece:
            raise BrokenBodyError(f"{left} bytes of the body did not come")
        left -= len(piece)
        yield piece


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while True:
        line = stream.readline()
        if not line.endswith(b"\n"):
            raise BrokenBodyError("no chunk header")
        left = int(line.split(b";")[0], 16)
        if not left:
            stream.readline()
            return
        while left:
            piece = stream.read(min(left, PIECE_BYTES))
            if not piece:
                raise BrokenBodyError("a chunk that ends too early")
            left -= len(piece)
            yield piece
        stream.readline()


def decompressed(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """The body, decompressed by its Content-Encoding. Raises `BrokenBodyError` if it ends in the middle of a frame."""
    if encoding in ("", "identity"):
        yield from pieces
        return
    decoder = DECOMPRESSORS[encoding]()
    for piece in pieces:
        rest = piece
        while rest:
            yield decoder.decompress(rest)
            # A body may consist of several frames.
            rest = decoder.unused_data or b""
            if rest:
                decoder = DECOMPRESSORS[encoding]()
    if not decoder.eof:
        raise BrokenBodyError("a compressed body that ends too early")


def accepted(wanted: str) -> str:
    """The first encoding of an Accept-Encoding header that is supported here, or an empty string."""
    names = (part.split(";")[0].strip() for part in wanted.split(","))
    return next((name for name in names if name in DECOMPRESSORS), "")


class Compressor:
    """Compresses an answer block by block."""

    def __init__(self, encoding: str) -> None:
        self._coder: Any = None
        self._start = b""
        if encoding == "lz4":
            self._coder = lz4.frame.LZ4FrameCompressor()
            self._start = self._coder.begin()
        elif encoding == "zstd":
            self._coder = zstd.ZstdCompressor(level=1)
        elif encoding in ("gzip", "deflate"):
            self._coder = zlib.compressobj(1, wbits=31 if encoding == "gzip" else zlib.MAX_WBITS)

    def add(self, block: bytes) -> bytes:
        """The compressed bytes that can be sent after this block."""
        start, self._start = self._start, b""
        return start + (self._coder.compress(block) if self._coder else block)

    def end(self) -> bytes:
        """The remaining bytes."""
        start, self._start = self._start, b""
        return start + (self._coder.flush() if self._coder else b"")
