"""Query sets, chosen by seed from the loaded rows, each with the rows to leave out of its answers. Searches nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from laion_assets.dataset import ID_STRIDE
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Ids, Vectors, vectors_of

COPY_DISTANCE = 1e-6
"""Below this cosine distance two vectors are copies of each other."""

OVERSAMPLE = 3
"""Rows drawn for each wanted query: LAION has some vectors up to 902 times, and each vector is asked only once."""

COMPARED_AT_ONCE = 1 << 23
"""Similarities of drawn rows that are in memory at a time: 34 MB of float32."""

LeftOut = Literal["nothing", "row", "partition"]
"""What is left out of a query's true neighbours and of its search: nothing, its own row, or its own partition."""


@dataclass(frozen=True)
class Kind:
    """What a query is, and what is searched: `query` is a column of vectors, `target` the column of the index.

    `like` is a search for a row of the table by its id. The graph holds that row, linked to its nearest neighbours, so
    it finds more for this query than for a query that it has never seen. So the two are measured separately.
    """

    query: By
    target: By
    like: bool = False
    given: bool = False

    @property
    def name(self) -> str:
        """For example `text_to_image`, `like_by_image` or `given_by_image`."""
        if self.given:
            return f"given_by_{self.target}"
        return f"like_by_{self.target}" if self.like else f"{self.query}_to_{self.target}"


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind: vectors float32 (q, d), and the ids int64 (q,) of the rows that they are."""

    kind: Kind
    ids: Ids
    vectors: Vectors
    left_out: LeftOut = "nothing"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def own_rows(self) -> Ids:
        """The id to leave out of each query's answers, (q,); -1 for none."""
        return self.ids if self.left_out == "row" else np.full(len(self), -1, dtype=np.int64)

    @property
    def own_shards(self) -> Ids:
        """The partition to leave out of each query's answers, (q,); -1 for none."""
        return self.ids // ID_STRIDE if self.left_out == "partition" else np.full(len(self), -1, dtype=np.int64)

    def part(self, start: int, end: int | None = None) -> QuerySet:
        """The queries from `start` to `end`."""
        return replace(self, ids=self.ids[start:end], vectors=self.vectors[start:end])


def unseen_sets(db: Database, drawn: Ids, count: int, seed: int, left_out: LeftOut) -> list[QuerySet]:
    """Up to `count` queries of each kind, all different: image→image, image→text, text→image, text→text.

    `drawn` are the ids of the rows to choose from. There are fewer queries if these rows have fewer different vectors.
    Raises `TableError`.
    """
    columns = _columns(db)
    return [
        QuerySet(Kind(query, target), ids, vectors, left_out)
        for query in columns
        for ids, vectors in [_different_of(db, query, drawn, count, seed)]
        for target in columns
    ]


def like_sets(db: Database, drawn: Ids, count: int, seed: int) -> list[QuerySet]:
    """Up to `count` rows of the table for each column, as `--like` asks for them; their own row is left out."""
    return [
        QuerySet(Kind(column, column, like=True), *_different_of(db, column, drawn, count, seed), left_out="row")
        for column in _columns(db)
    ]


def _columns(db: Database) -> list[By]:
    return ["image", "text"] if db.settings.dataset.has_text else ["image"]


def _different_of(db: Database, by: By, drawn: Ids, count: int, seed: int) -> tuple[Ids, Vectors]:
    """Ids and vectors of up to `count` of the drawn rows, in an order by seed, all different."""
    block = vectors_of(db, by, drawn)
    order = np.random.default_rng(seed).permutation(len(block.ids))
    chosen = order[_different(block.vectors[order], count)]
    return block.ids[chosen], block.vectors[chosen]


def _different(vectors: Vectors, count: int) -> npt.NDArray[np.int64]:
    """Positions of the first `count` vectors, of (n, d), that are not copies of an earlier one.

    Each block of vectors is compared with those before it, until there are enough. Besides the vectors and copies of
    them, memory is that of `COMPARED_AT_ONCE` similarities: at most 0.1 GB, whatever the number of vectors.
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    at_once = max(1, COMPARED_AT_ONCE // max(len(unit), 1))
    found = np.empty(0, np.int64)
    for start in range(0, len(unit), at_once):
        some = unit[start : start + at_once]
        alike = some @ unit[: start + len(some)].T > 1 - COPY_DISTANCE
        # Only earlier vectors count: for vector i those before i.
        copies = np.tril(alike, k=start - 1).any(axis=1)
        found = np.concatenate([found, start + np.flatnonzero(~copies)])
        if len(found) >= count:
            break
    return found[:count]
