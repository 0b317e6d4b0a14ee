"""Named ways to damage an npy file of vectors, each with the outcome that the product must have."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets_tests.torture.judging import Outcome
from laion_assets_tests.torture.truth import RawFiles

Spoil = Callable[[RawFiles], object]
Spoils = dict[str, tuple[Outcome, Spoil]]

REFUSED: Outcome = "refused"
TAKEN: Outcome = "as the files say"


def bytes_of(change: Callable[[bytes], bytes]) -> Spoil:
    """Changes the bytes of the image file."""

    def spoil(files: RawFiles) -> None:
        files.image.write_bytes(change(files.image.read_bytes()))

    return spoil


def header(text: str, version: tuple[int, int] = (1, 0)) -> Spoil:
    """Replaces the header and keeps the vectors. `ROWS` in `text` is replaced by the number of vectors."""

    def change(content: bytes) -> bytes:
        rows = len(np.load(io.BytesIO(content)))
        width = 2 if version[0] == 1 else 4
        said = text.replace("ROWS", str(rows)).ljust(117) + "\n"
        start = b"\x93NUMPY" + bytes(version) + len(said).to_bytes(width, "little") + said.encode("latin-1")
        return start + content[128:]

    return bytes_of(change)


def described(descr: str = "'<f2'", order: str = "False", shape: str = "(ROWS, 512)") -> Spoil:
    """Replaces the header by one with a changed dtype, order or shape."""
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}")


def vectors_of(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], kind: str = "image") -> Spoil:
    """Changes the vectors of the image or the text file."""

    def spoil(files: RawFiles) -> None:
        path: Path = getattr(files, kind)
        np.save(path, change(np.load(path)))

    return spoil


def row_of(value: float | npt.NDArray[Any], row: int = 7, kind: str = "image") -> Spoil:
    """Replaces one row."""

    def change(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        vectors[row] = value
        return vectors

    return vectors_of(change, kind)


def scaled(factor: float, rows: slice = slice(7, 8)) -> Spoil:
    """Multiplies the vectors of some rows by a factor."""

    def change(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
        vectors[rows] = (vectors[rows].astype(np.float32) * factor).astype(vectors.dtype)
        return vectors

    return vectors_of(change)


def _exchange(files: RawFiles) -> None:
    image = files.image.read_bytes()
    files.image.write_bytes(files.text.read_bytes())
    files.text.write_bytes(image)


def _folder(files: RawFiles) -> None:
    files.image.unlink()
    files.image.mkdir()


def _low_bit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    vectors.view(np.uint16)[5, 5] ^= 1
    return vectors


def _shuffled(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.random.default_rng(1).permutation(vectors)


def _hole(content: bytes) -> bytes:
    return content[:4096] + bytes(4096) + content[8192:]


HEADERS: Spoils = {
    "npy: another magic": (REFUSED, bytes_of(lambda content: b"\x93NUMPZ" + content[6:])),
    "npy: version 0.0": (REFUSED, bytes_of(lambda content: content[:6] + b"\x00\x00" + content[8:])),
    "npy: version 3.0": (REFUSED, bytes_of(lambda content: content[:6] + b"\x03\x00" + content[8:])),
    "npy: version 1.1": (REFUSED, bytes_of(lambda content: content[:6] + b"\x01\x01" + content[8:])),
    "npy: version 2.0 with the header of 1.0": (REFUSED, bytes_of(lambda c: c[:6] + b"\x02\x00" + c[8:])),
    "npy: version 2.0, told rightly": (
        TAKEN,
        header("{'descr': '<f2', 'fortran_order': False, 'shape': (ROWS, 512), }", (2, 0)),
    ),
    "npy: header of 0 bytes": (REFUSED, bytes_of(lambda content: content[:8] + b"\x00\x00" + content[10:])),
    "npy: header of 65,535 bytes": (REFUSED, bytes_of(lambda content: content[:8] + b"\xff\xff" + content[10:])),
    "npy: header of 4 GB": (
        REFUSED,
        bytes_of(lambda content: content[:6] + b"\x02\x00\xff\xff\xff\xff" + content[12:]),
    ),
    "npy: header of zeros": (REFUSED, bytes_of(lambda content: content[:10] + bytes(118) + content[128:])),
    "npy: header that calls a function": (REFUSED, header("__import__('os').abort()")),
    "npy: header without a shape": (REFUSED, header("{'descr': '<f2', 'fortran_order': False}")),
    "npy: header with a further key": (
        REFUSED,
        header("{'descr': '<f2', 'fortran_order': False, 'shape': (ROWS, 512), 'x': 1}"),
    ),
    "npy: header of nested brackets": (REFUSED, header("[" * 110)),
    "npy: header that is not ASCII": (
        REFUSED,
        header("{'descr': '<f\xb2', 'fortran_order': False, 'shape': (ROWS, 512), }"),
    ),
    "npy: dtype int16": (REFUSED, described("'<i2'")),
    "npy: dtype float32, which halves the file": (REFUSED, described("'<f4'")),
    "npy: dtype float32 of half the rows": (REFUSED, described("'<f4'", shape="(125, 512)")),
    "npy: dtype big-endian": (REFUSED, described("'>f2'")),
    "npy: dtype object": (REFUSED, described("'|O'")),
    "npy: dtype of two letters": (REFUSED, described("'|S2'")),
    "npy: dtype of fields": (REFUSED, described("[('a', '<f2')]")),
    "npy: dtype unknown": (REFUSED, described("'<f3'")),
    "npy: order said to be Fortran's": (REFUSED, described(order="True")),
    "npy: order that is text": (REFUSED, described(order="'False'")),
    "npy: shape of one dimension": (REFUSED, described(shape="(128000,)")),
    "npy: shape of three dimensions": (REFUSED, described(shape="(ROWS, 1, 512)")),
    "npy: shape of none": (REFUSED, described(shape="()")),
    "npy: shape transposed": (REFUSED, described(shape="(512, ROWS)")),
    "npy: shape of 256 columns": (REFUSED, described(shape="(500, 256)")),
    "npy: one row less than there are": (REFUSED, described(shape="(249, 512)")),
    "npy: one row more than there are": (REFUSED, described(shape="(251, 512)")),
    "npy: negative rows": (REFUSED, described(shape="(-ROWS, 512)")),
    "npy: 2**60 rows": (REFUSED, described(shape="(1152921504606846976, 512)")),
}

CONTENTS: Spoils = {
    "npy: empty": (REFUSED, bytes_of(lambda _: b"")),
    "npy: its header alone": (REFUSED, bytes_of(lambda content: content[:128])),
    "npy: cut by a byte": (REFUSED, bytes_of(lambda content: content[:-1])),
    "npy: cut by a row": (REFUSED, bytes_of(lambda content: content[:-1024])),
    "npy: longer by a byte": (REFUSED, bytes_of(lambda content: content + b"\x00")),
    "npy: longer by a row": (REFUSED, bytes_of(lambda content: content + content[-1024:])),
    "npy: a byte missing in the middle": (REFUSED, bytes_of(lambda content: content[:5000] + content[5001:])),
    "npy: slipped by a byte, of the right size": (REFUSED, bytes_of(lambda c: c[:128] + c[129:] + b"\x00")),
    "npy: zeros": (REFUSED, bytes_of(lambda content: bytes(len(content)))),
    "npy: a page that says 503": (REFUSED, bytes_of(lambda content: b"<html>503</html>".ljust(len(content)))),
    "npy: packed": (REFUSED, bytes_of(gzip.compress)),
    "npy: the metadata file": (REFUSED, lambda files: files.image.write_bytes(files.metadata.read_bytes())),
    "npy: a hole of zeros": (TAKEN, bytes_of(_hole)),
    "npy: another low bit": (TAKEN, vectors_of(_low_bit)),
    "npy: float32, told rightly": (TAKEN, vectors_of(lambda vectors: vectors.astype("<f4"))),
    "npy: float64, told rightly": (TAKEN, vectors_of(lambda vectors: vectors.astype("<f8"))),
    "npy: big-endian, told rightly": (TAKEN, vectors_of(lambda vectors: vectors.astype(">f2"))),
    "npy: Fortran's order, told rightly": (TAKEN, vectors_of(np.asfortranarray)),
    "vectors: one NaN": (TAKEN, row_of(np.nan)),
    "vectors: one infinite": (TAKEN, row_of(np.inf)),
    "vectors: one zero": (TAKEN, row_of(0)),
    "vectors: one text of zeros": (TAKEN, row_of(0, kind="text")),
    "vectors: one of length 2": (TAKEN, scaled(2)),
    "vectors: one of length 0.5": (TAKEN, scaled(0.5)),
    "vectors: one denormal": (TAKEN, row_of(6e-8)),
    "vectors: all of length 2": (REFUSED, scaled(2, slice(None))),
    "vectors: all NaN": (REFUSED, row_of(np.nan, row=slice(None))),  # type: ignore[arg-type]
    "vectors: all zero": (REFUSED, row_of(0, row=slice(None))),  # type: ignore[arg-type]
    "vectors: all the same": (REFUSED, vectors_of(lambda vectors: np.repeat(vectors[:1], len(vectors), axis=0))),
    "vectors: all turned round": (REFUSED, scaled(-1, slice(None))),
    "vectors: columns in another order": (REFUSED, vectors_of(lambda vectors: vectors[:, ::-1].copy())),
    "rows: images shuffled": (REFUSED, vectors_of(_shuffled)),
    "rows: texts shuffled": (REFUSED, vectors_of(_shuffled, "text")),
    "rows: images slipped by one": (REFUSED, vectors_of(lambda vectors: np.roll(vectors, 1, axis=0))),
    "rows: images reversed": (REFUSED, vectors_of(lambda vectors: vectors[::-1].copy())),
    "rows: one image less": (REFUSED, vectors_of(lambda vectors: vectors[:-1])),
    "rows: one image doubled": (REFUSED, vectors_of(lambda vectors: np.concatenate([vectors, vectors[-1:]]))),
    "rows: no image": (REFUSED, vectors_of(lambda vectors: vectors[:0])),
    "rows: two images exchanged": (TAKEN, vectors_of(lambda vectors: vectors[[1, 0, *range(2, len(vectors))]])),
    "files: texts are the images again": (
        REFUSED,
        lambda files: files.text.write_bytes(files.image.read_bytes()) and None,
    ),
    "files: images and texts exchanged": (TAKEN, _exchange),
    "files: no image file": (REFUSED, lambda files: files.image.unlink()),
    "files: the image file is a folder": (REFUSED, _folder),
}
