"""Query sets, drawn by seed from the loaded rows, and vectors that are not in the table. It searches nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laion_assets.table.connect import Database
from laion_assets.table.vectors import By, Ids, Vectors, draw_rows, vectors_of

COPY_DISTANCE = 1e-6
"""Below this cosine distance two vectors are copies of each other."""

OVERSAMPLE = 3
"""Rows drawn for each query wanted: LAION holds vectors up to 902 times, and each is asked once."""

HELD_OUT_NOISE = 0.3
"""Length of the noise that makes a vector which is not in the table out of one that is: cosine distance about 0.04."""


@dataclass(frozen=True)
class Kind:
    """What is asked with, and what is searched: `query` is a column's vectors, `target` the column of the index."""

    query: By
    target: By
    held_out: bool = False

    @property
    def name(self) -> str:
        """For example `text_to_image`, or `held_out_to_image`."""
        return f"{'held_out' if self.held_out else self.query}_to_{self.target}"

    @property
    def excludes_own_row(self) -> bool:
        """Whether the drawn row is left out of what is true and of what is found.

        It is when a vector is searched among its own column: it would always be its own first answer. A text asked of
        images may find its own image: that is an answer.
        """
        return self.query == self.target and not self.held_out


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind: vectors float32 (q, d), and the ids int64 (q,) of the rows they came from."""

    kind: Kind
    ids: Ids
    vectors: Vectors

    def __len__(self) -> int:
        return len(self.ids)


def draw_query_sets(db: Database, count: int, seed: int) -> list[QuerySet]:
    """Up to `count` queries of each kind, none a copy of another: image→image, text→text, text→image, image→text.

    A fifth set holds vectors that are not in the table: drawn images with noise of length 0.3 added, and made length 1
    again. Fewer come where the table has fewer different vectors. Raises `TableError`.
    """
    drawn = np.sort(draw_rows(db, OVERSAMPLE * count, seed))
    columns: list[By] = ["image", "text"] if db.settings.dataset.has_text else ["image"]
    sets: list[QuerySet] = []
    for query in columns:
        block = vectors_of(db, query, drawn)
        order = np.random.default_rng(seed).permutation(len(block.ids))
        chosen = order[_different(block.vectors[order], count)]
        ids, vectors = block.ids[chosen], block.vectors[chosen]
        sets += [QuerySet(Kind(query, target), ids, vectors) for target in columns]
        if query == "image":
            sets.append(QuerySet(Kind("image", "image", held_out=True), ids, _with_noise(vectors, seed)))
    return sets


def _different(vectors: Vectors, count: int) -> npt.NDArray[np.int64]:
    """Places of the first `count` vectors that are no copy of an earlier one."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    copies = np.tril(unit @ unit.T > 1 - COPY_DISTANCE, k=-1).any(axis=1)
    return np.flatnonzero(~copies)[:count]


def _with_noise(vectors: Vectors, seed: int) -> Vectors:
    noise = np.random.default_rng(seed).standard_normal(vectors.shape, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    moved: Vectors = vectors + noise * (HELD_OUT_NOISE * length / np.linalg.norm(noise, axis=1, keepdims=True))
    held_out: Vectors = (moved * (length / np.linalg.norm(moved, axis=1, keepdims=True))).astype(np.float32)
    return held_out
