"""Computes the rows that the table must hold, from raw files, with numpy and pyarrow and no code of the product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[int, bytes, bytes, bytes, "float | None", bytes, bytes]
"""id, url, caption, NSFW, similarity (None for NaN), and the two vectors as the bytes of their float32 values."""

NAMES = {
    "url": ("url", "URL", "image_url"),
    "caption": ("caption", "TEXT", "text", "title"),
    "NSFW": ("NSFW", "nsfw"),
    "similarity": ("similarity", "clip_similarity_vitb32", "clip_similarity_vitl14"),
}
"""Names of each column in published metadata (docs/datasets.md). The first name that exists is used."""


@dataclass(frozen=True)
class RawFiles:
    """The three files of one shard, in any folder."""

    image: Path
    text: Path
    metadata: Path

    @classmethod
    def of(cls, folder: Path, shard: int) -> RawFiles:
        """A shard's files in a folder with LAION's layout."""
        return cls(
            folder / "img_emb" / f"img_emb_{shard}.npy",
            folder / "text_emb" / f"text_emb_{shard}.npy",
            folder / "metadata" / f"metadata_{shard}.parquet",
        )

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The paths of all three files."""
        return self.image, self.text, self.metadata


@dataclass(frozen=True)
class Truth:
    """The rows that the table must hold, in order of id, and the numbers of the rows that must be refused."""

    rows: list[Row]
    refused: list[int]


def true_rows(files: RawFiles, shard: int) -> Truth:
    """The rows of one shard: row k of the three files, except rows whose vectors are not finite or not of length 1.

    Raises the errors of numpy and pyarrow for unreadable files, and `ValueError` when the row counts differ.
    """
    vectors = [np.load(path, allow_pickle=False) for path in (files.image, files.text)]
    file = pq.ParquetFile(files.metadata)
    wanted = [_name(file.schema_arrow.names, name) for name in NAMES]
    table = file.read(columns=wanted)
    counts = {len(vectors[0]), len(vectors[1]), table.num_rows}
    if len(counts) > 1:
        raise ValueError(f"counts differ: {sorted(counts)}")
    with np.errstate(over="ignore", invalid="ignore"):
        images, texts = (block.astype(np.float32) for block in vectors)
    sound = _sound(images) & _sound(texts)
    columns = [_texts(table, name) for name in ("url", "caption", "NSFW")]
    scores = _scores(table)
    rows = [
        (
            shard * 10_000_000 + row,
            *(column[row] for column in columns),
            scores[row],
            images[row].tobytes(),
            texts[row].tobytes(),
        )
        for row in np.flatnonzero(sound).tolist()
    ]
    return Truth(rows, np.flatnonzero(~sound).tolist())


def score(similarity: float) -> float | None:
    """A similarity as rows are compared: None for NaN."""
    return None if math.isnan(similarity) else float(similarity)


def difference(found: list[Row], expected: list[Row]) -> str | None:
    """One line that says which rows are lost, doubled or wrong, or None when `found` equals `expected`."""
    if found == expected:
        return None
    ids = [row[0] for row in found]
    by_id = {row[0]: row for row in expected}
    lost = sorted(set(by_id) - set(ids))
    doubled = len(ids) - len(set(ids))
    strange = sorted(set(ids) - set(by_id))
    wrong = [row[0] for row in found if row[0] in by_id and row != by_id[row[0]]]
    return f"{len(lost)} lost {lost[:3]}, {doubled} doubled, {len(strange)} strange {strange[:3]}, wrong {wrong[:3]}"


def _sound(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        squared = (vectors.astype(np.float64) ** 2).sum(axis=1)
        sound: npt.NDArray[np.bool_] = np.isfinite(squared) & (np.abs(squared - 1) < 0.05)
    return sound


def _name(names: list[str], column: str) -> str:
    return next(alias for alias in NAMES[column] if alias in names)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(_name(table.column_names, name))
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _texts(table: pa.Table, name: str) -> list[bytes]:
    """A column as bytes. A list becomes its first element, a number its digits (docs/datasets.md)."""
    column = _column(table, name)
    if pa.types.is_list(column.type):
        return [_as_bytes(texts[0] if texts else None) for texts in column.to_pylist()]
    if pa.types.is_floating(column.type):
        return [_as_bytes(None if number is None else str(number)) for number in column.to_pylist()]
    return [_as_bytes(text) for text in column.cast(pa.binary()).to_pylist()]


def _scores(table: pa.Table) -> list[float | None]:
    with np.errstate(over="ignore"):
        values = [
            np.float32(math.nan if score is None else score) for score in _column(table, "similarity").to_pylist()
        ]
    return [None if np.isnan(value) else float(value) for value in values]


def _as_bytes(text: str | bytes | None) -> bytes:
    return text.encode() if isinstance(text, str) else text or b""
