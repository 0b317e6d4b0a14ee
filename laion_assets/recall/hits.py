"""Counts hits: which true neighbours searches found, by distances computed again from the stored vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from laion_assets.recall.exact import Distances, TrueNeighbours, cosine_distances
from laion_assets.recall.figures import Recall
from laion_assets.recall.queries import QuerySet
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Ids, vectors_of

TOLERANCE = 2e-6
"""How much larger the distance of a found row may be than the k-th true one. Both distances are computed again from the
stored vectors, in float64 and in float32: distances of a bf16 index have errors up to 0.01."""

PAIRS_AT_ONCE = 4_096
"""Pairs of a query and a row whose vectors are in memory: 34 MB of 512 float64, twice."""


class HitCounter:
    """Counts how many of the true neighbours were found, for one set of queries.

    `answers` are all answers that will be compared: the place of a query in the set, and ids that a search found for
    it. Each vector is read once. Distances are kept, and not vectors: those that 10,000 queries found take 0.7 GB.
    """

    def __init__(
        self, db: Database, queries: QuerySet, truth: TrueNeighbours, answers: Iterable[tuple[int, Sequence[int]]]
    ) -> None:
        self._truth = truth
        places, ids = _pairs(answers)
        distances = np.full(len(ids), np.inf)
        by: By = queries.kind.target
        for start in range(0, len(ids), PAIRS_AT_ONCE):
            some = slice(start, start + PAIRS_AT_ONCE)
            distances[some] = _distances(db, by, queries, places[some], ids[some])
        by_query = np.lexsort((ids, places))
        self._places, self._ids, self._distances = places[by_query], ids[by_query], distances[by_query]

    def recall(self, found: Sequence[Sequence[int]], k: int, start: int = 0) -> Recall:
        """Recall at k of the queries' answers; the first answer is that of the query at `start`.

        A found row counts if its distance is at most that of the k-th true neighbour plus the tolerance: which of
        several rows with the same distance is found does not matter. A row that is no longer in the table does not
        count. If the table has fewer than k rows, recall is over all of them. A query without any true neighbour has
        recall 1.
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
            near = int((self._of(query, ids) <= limit).sum())
            counts.append(min(near, there) / there)
            by_id.append(len(set(ids) & set(true_ids.tolist())) / there)
        return Recall.of(np.array(counts), np.array(by_id))

    def _of(self, query: int, ids: Sequence[int]) -> Distances:
        """The distances of a query to these rows, which were among the query's answers."""
        first, end = np.searchsorted(self._places, [query, query + 1])
        return self._distances[first:end][np.searchsorted(self._ids[first:end], ids)]


def _pairs(answers: Iterable[tuple[int, Sequence[int]]]) -> tuple[Ids, Ids]:
    """The queries and rows of these answers, int64 (n,) each: every pair once, ordered by row."""
    found = list(answers)
    places = np.repeat(np.array([place for place, _ in found], np.int64), [len(ids) for _, ids in found])
    ids = np.fromiter((row_id for _, answer in found for row_id in answer), np.int64, len(places))
    order = np.lexsort((places, ids))
    places, ids = places[order], ids[order]
    new = np.ones(len(ids), bool)
    new[1:] = (np.diff(ids) != 0) | (np.diff(places) != 0)
    return places[new], ids[new]


def _distances(db: Database, by: By, queries: QuerySet, places: Ids, ids: Ids) -> Distances:
    """The distance of each pair of a query and a row, float64 (n,); infinite for rows that are gone."""
    stored = vectors_of(db, by, ids)
    there = np.isin(ids, stored.ids)
    vectors = stored.vectors[np.searchsorted(stored.ids, ids[there])]
    distances = np.full(len(ids), np.inf)
    distances[there] = cosine_distances(queries.vectors[places[there]], vectors)
    return distances
