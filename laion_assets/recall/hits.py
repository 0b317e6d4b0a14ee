"""Counts hits: which true neighbours searches found, by distances computed again from the stored vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from laion_assets.recall.exact import TrueNeighbours, cosine_distances
from laion_assets.recall.figures import Recall
from laion_assets.recall.queries import QuerySet
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Ids, Vectors, vectors_of

TOLERANCE = 2e-6
"""How much larger the distance of a found row may be than the k-th true one. Both distances are computed again from the
stored vectors, in float64 and in float32: distances of a bf16 index have errors up to 0.01."""


class HitCounter:
    """Counts how many of the true neighbours were found, for one set of queries.

    `found` are the ids of all rows that will be compared: their vectors are read once.
    """

    def __init__(self, db: Database, queries: QuerySet, truth: TrueNeighbours, found: Ids) -> None:
        self._queries, self._truth = queries, truth
        by: By = queries.kind.target
        self._stored = vectors_of(db, by, found)

    def recall(self, found: list[list[int]], k: int, start: int = 0) -> Recall:
        """Recall at k of the queries' answers; the first answer is that of the query at `start`.

        A found row counts if its distance is at most that of the k-th true neighbour plus the tolerance: which of
        several rows with the same distance is found does not matter. If the table has fewer than k rows, recall is over
        all of them. A query without any true neighbour has recall 1.
        """
        counts, by_id = [], []
        for query, ids in enumerate(found, start):
            true_ids = self._truth.ids[query, :k]
            there = int((true_ids >= 0).sum())
            if not there:
                counts.append(1.0)
                by_id.append(1.0)
                continue
            limit = self._truth.distances[query, there - 1] + TOLERANCE
            near = int((self._distances(query, np.array(ids, dtype=np.int64)) <= limit).sum())
            counts.append(min(near, there) / there)
            by_id.append(len(set(ids) & set(true_ids.tolist())) / there)
        return Recall.of(np.array(counts), np.array(by_id))

    def _distances(self, query: int, ids: Ids) -> npt.NDArray[np.float64]:
        places = np.searchsorted(self._stored.ids, ids)
        vectors: Vectors = self._stored.vectors[places]
        return cosine_distances(self._queries.vectors[query], vectors)
