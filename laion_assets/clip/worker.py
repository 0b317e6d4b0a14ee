"""The program of encode_text and encode_image: answers ClickHouse's rows on standard output. No row can make it fail.

ClickHouse starts it from the scripts that `udf` writes and keeps it running. For each block of rows ClickHouse sends a
line with their number, then the rows in RowBinary: one string of any bytes each. The answer to each row is an array of
Float32, in order. An answer is empty if there is no vector; the reason goes to standard error, which is ClickHouse's
log.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeAlias

from PIL.Image import Image

from laion_assets.clip.encoder import IMAGE_BATCH, TEXT_BATCH, ClipEncoder, Float32Rows, Kind
from laion_assets.clip.images import load_image, read_below
from laion_assets.errors import ClipError, LaionError
from laion_assets.varint import varint

Answer: TypeAlias = "Callable[[list[bytes]], list[bytes]]"
"""A function from rows, as bytes, to their answers in RowBinary."""

EMPTY = b"\x00"
"""An array without elements in RowBinary."""

MAX_REASONS = 20
"""Reasons that are written for one block of rows at most: a table full of broken paths would flood the log."""


def main(arguments: list[str] | None = None) -> int:
    """Serves until standard input ends. Returns 1 if the model cannot be loaded, else 0."""
    parser = argparse.ArgumentParser(prog="laion_assets.clip.worker", description=__doc__)
    parser.add_argument("kind", choices=("text", "image"))
    parser.add_argument("--model", type=Path, required=True, help="folder with text/ and vision/")
    parser.add_argument("--dimension", type=int, required=True, help="that of the table's vectors")
    parser.add_argument("--images", type=Path, help="the only folder that encode_image may read")
    parser.add_argument("--threads", type=int, help="threads of onnxruntime; default: one a core")
    options = parser.parse_args(arguments)
    encoder = ClipEncoder(options.model, options.dimension, threads=options.threads)
    reasons = Reasons()
    kind: Kind = options.kind
    answer = text_answers(encoder) if kind == "text" else image_answers(encoder, options.images, reasons)
    try:
        encoder.load(kind)
        # Only answers may reach ClickHouse, also if a library prints something.
        output = os.fdopen(os.dup(1), "wb", buffering=2**20)
        os.dup2(2, 1)
        serve(sys.stdin.buffer, output, answer, TEXT_BATCH if kind == "text" else IMAGE_BATCH, reasons)
    except BrokenPipeError:
        return 0  # ClickHouse closed the pipe
    except LaionError as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0


class Reasons:
    """Why rows got no vector, on standard error, at most `MAX_REASONS` a block."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, reason: object) -> None:
        """Writes one reason as one line."""
        self._count += 1
        if self._count <= MAX_REASONS:
            print(f"no vector: {reason}", file=sys.stderr, flush=True)

    def end_block(self) -> None:
        """Says how many reasons of the block were not written."""
        if self._count > MAX_REASONS:
            print(f"no vector: {self._count - MAX_REASONS:,} rows more", file=sys.stderr, flush=True)
        self._count = 0


def serve(source: BinaryIO, output: BinaryIO, answer: Answer, batch_size: int, reasons: Reasons) -> None:
    """Answers block after block until `source` ends. A block is read whole first; otherwise both sides could block."""
    while header := source.readline():
        rows = [_read_string(source) for _ in range(int(header))]
        # A constant comes once for each row of the block, so each distinct value is encoded once.
        distinct = list(dict.fromkeys(rows))
        known: dict[bytes, bytes] = {}
        written = 0
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            known.update(zip(batch, _answers(answer, batch, reasons), strict=True))
            # Answers that are known are written now: ClickHouse decodes them while the next batch is encoded.
            end = written
            while end < len(rows) and rows[end] in known:
                end += 1
            output.writelines(known[row] for row in rows[written:end])
            output.flush()
            written = end
        reasons.end_block()


def text_answers(encoder: ClipEncoder) -> Answer:
    """The answers to rows of text. Bytes that are not UTF-8 become replacement characters: every text has a vector."""

    def answer(rows: list[bytes]) -> list[bytes]:
        return _arrays(encoder.encode_texts(row.decode("utf-8", "replace") for row in rows))

    return answer


def image_answers(encoder: ClipEncoder, root: Path | None, reasons: Reasons) -> Answer:
    """The answers to rows of paths below `root`; empty for a path or a picture that is refused."""

    def answer(rows: list[bytes]) -> list[bytes]:
        readable: list[int] = []

        def pictures() -> Iterator[Image]:
            for number, row in enumerate(rows):
                try:
                    yield load_image(read_below(root, os.fsdecode(row)))
                except ClipError as error:
                    reasons.add(error)
                else:
                    readable.append(number)

        vectors = _arrays(encoder.encode_images(pictures()))
        known = dict(zip(readable, vectors, strict=True))
        return [known.get(number, EMPTY) for number in range(len(rows))]

    return answer


def _answers(answer: Answer, rows: list[bytes], reasons: Reasons) -> list[bytes]:
    """The rows' answers. If the batch fails, each row is answered alone, so that one bad row does not spoil others."""
    try:
        return answer(rows)
    except Exception as error:  # A worker that ends would fail the query, and its successor would load the model again.
        if len(rows) == 1:
            reasons.add(f"{type(error).__name__}: {error}")
            return [EMPTY]
        return [one for row in rows for one in _answers(answer, [row], reasons)]


def _arrays(vectors: Float32Rows) -> list[bytes]:
    """Each vector as an array in RowBinary: its length, then little-endian floats."""
    head = varint(vectors.shape[1])
    return [head + row.tobytes() for row in vectors.astype("<f4", copy=False)]


def _read_string(source: BinaryIO) -> bytes:
    length = shift = 0
    while True:
        byte = _exactly(source, 1)[0]
        length |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return _exactly(source, length)


def _exactly(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise BrokenPipeError
    return data


if __name__ == "__main__":
    sys.exit(main())
