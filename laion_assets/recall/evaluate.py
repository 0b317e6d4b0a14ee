"""Measures recall and latency of the index against exact search, over search settings. What it finds is in figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from laion_assets.errors import TableError
from laion_assets.index.graphs import IndexParameters
from laion_assets.recall.exact import TrueNeighbours, cosine_distances, true_neighbours
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    Recall,
    SearchSettings,
    recall_folder,
)
from laion_assets.recall.queries import COPY_DISTANCE, QuerySet, draw_query_sets
from laion_assets.search.statement import SearchRequest, search
from laion_assets.table.connect import Database
from laion_assets.table.schema import PartitionState, partitions, require_table
from laion_assets.table.vectors import By, Ids, Vectors, vectors_of

TOLERANCE = 2e-6
"""By how much the distance of a found row may exceed the k-th true one. The distances of both are computed again from
the stored vectors, in float64 and in float32: those that a bf16 index gives are off by up to 0.01."""

ROWS_A_QUERY, LEAST_QUERIES = 1_000, 10
"""Of a small table fewer queries are asked. From 100,000 rows on, where a scan begins to be slower, it is a hundred."""

EF_SEARCH = (16, 32, 64, 128, 256, 512, 1024, 2048)
GREAT_EF = 512
"""From here on the graph finds what rescoring is to rank, and few candidates do. Of 100,000 rows in one part, i8, M 16,
text→image: recall@10 .978 at 512 with 2 candidates a neighbour (8 ms), .994 at 1024 with 5 (13 ms), and as many at 256
with 90 (52 ms), which is .972 with 5."""

ANSWERS = 11
"""Rows that are asked for: ten, and the drawn row itself."""

EXACT_SEARCHES = 20
"""Exact searches that are timed a kind: they are all alike, and on a large table slow."""


def grid_of(efs: Sequence[int]) -> tuple[SearchSettings, ...]:
    """Every ef_search plain and with 5 candidates a neighbour rescored, great ones with 2, the greatest with more.

    20 and 90 are for graphs of few bits. 90 is the most that ClickHouse's 1,000 candidates a search allow for the
    eleven rows that are asked for.
    """
    return (
        *(SearchSettings(ef) for ef in efs),
        *(SearchSettings(ef, multiplier=2) for ef in efs if ef >= GREAT_EF),
        *(SearchSettings(ef, multiplier=5) for ef in efs),
        SearchSettings(efs[-1], multiplier=20),
        SearchSettings(efs[-1], multiplier=90),
    )


DEFAULT_GRID = grid_of(EF_SEARCH)

Log = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What an evaluation does: queries a kind, their seed, and the settings that are tried.

    Recall@100 is measured with the first `queries_at_100` of the queries, 0 for not at all: with rescoring such a
    search reads ten times the rows, and its mean over queries is as steady with a quarter of them.
    """

    queries: int = 100
    seed: int = 0
    grid: Sequence[SearchSettings] = DEFAULT_GRID
    queries_at_100: int = 25


def plan_for(states: Sequence[PartitionState], queries: int) -> Plan:
    """The plan for a table of these partitions, at most `queries` a kind: what would look at all of it is left out.

    One query for each 1,000 rows, at least 10, a quarter of them at 100. Of ef_search, the values up to the first that
    is no less than the rows of the largest part, whose graph such a search sees whole. Of rescoring, the multipliers
    whose candidates are fewer than those rows. A part of 1,000 rows has the whole grid, a table of 100,000 a hundred
    queries.
    """
    rows, largest = sum(state.rows for state in states), max(state.rows for state in states)
    count = min(queries, max(LEAST_QUERIES, rows // ROWS_A_QUERY))
    efs = [ef for place, ef in enumerate(EF_SEARCH) if place == 0 or EF_SEARCH[place - 1] < largest]
    grid = [one for one in grid_of(efs) if one.multiplier * ANSWERS < largest]
    return Plan(count, grid=grid, queries_at_100=(count + 3) // 4)


@dataclass(frozen=True)
class _Found:
    """Ids that one set's searches gave at one setting, row by row as they came, and the seconds of each."""

    ids: list[list[int]]
    seconds: list[float]


def evaluate(
    db: Database, plan: Plan | None = None, *, folder: Path | None = None, log: Log | None = None
) -> Evaluation:
    """Recall and latency of the table's indexes for every kind of query; without a plan, by the one for its size.

    Raises `TableError`, also without rows.
    """
    require_table(db)
    started = time.perf_counter()
    states = partitions(db)
    if not states:
        raise TableError(db.subject, found="no rows", advice="load a shard first: laion-assets load 0")
    plan = plan or plan_for(states, db.settings.recall_queries)
    sets = draw_query_sets(db, plan.queries, plan.seed)
    exact = true_neighbours(db, sets, 100 if plan.queries_at_100 else 10, folder or recall_folder(db.settings))
    if log is not None:
        source = "from the store" if exact.from_store else f"in {exact.seconds:.1f} s"
        log(f"true neighbours of {sum(map(len, sets)):,} queries {source}")
    summaries, measurements = [], []
    for queries, truth in zip(sets, exact.neighbours, strict=True):
        summary, measured = _evaluate_kind(db, plan, queries, truth)
        summaries.append(summary)
        measurements += measured
        if log is not None:
            best = max(measured, key=lambda one: one.at_10.mean)
            log(f"{queries.kind.name}: recall@10 up to {best.at_10.mean:.3f} ({best.search})")
    return Evaluation(
        rows=sum(state.rows for state in states),
        shards=[state.shard for state in states],
        index=str(IndexParameters.of(db.settings)),
        target=db.settings.recall_target,
        targets={str(kind): target for kind, target in db.settings.recall_targets.items()},
        tolerance=TOLERANCE,
        seed=plan.seed,
        exact_seconds=exact.seconds,
        exact_from_store=exact.from_store,
        seconds=time.perf_counter() - started,
        kinds=summaries,
        measurements=measurements,
    )


def _evaluate_kind(
    db: Database, plan: Plan, queries: QuerySet, truth: TrueNeighbours
) -> tuple[KindSummary, list[Measurement]]:
    _search(db, queries, SearchSettings(64), 10, only=1)  # the first search reads the graphs into the cache
    exact = _search(db, queries, None, 10, only=EXACT_SEARCHES)
    found = {(one, 10): _search(db, queries, one, 10) for one in plan.grid}
    if plan.queries_at_100:
        found |= {(one, 100): _search(db, queries, one, 100, only=plan.queries_at_100) for one in plan.grid}
    every = np.array(sorted({row_id for one in found.values() for ids in one.ids for row_id in ids}), dtype=np.int64)
    judge = Judge(db, queries, truth, every)
    measured = [
        Measurement(
            queries.kind.name,
            one,
            judge.recall(found[one, 10].ids, 10),
            judge.recall(found[one, 100].ids, 100) if plan.queries_at_100 else None,
            Latency.of(found[one, 10].seconds),
        )
        for one in plan.grid
    ]
    copies = int((truth.distances[:, min(9, truth.distances.shape[1] - 1)] < COPY_DISTANCE).sum())
    return KindSummary(queries.kind.name, len(queries), copies, Latency.of(exact.seconds)), measured


def _search(
    db: Database, queries: QuerySet, settings: SearchSettings | None, k: int, only: int | None = None
) -> _Found:
    """The k rows that each query finds, its own row left out where its kind says so; exact without settings."""
    wanted = k + int(queries.kind.excludes_own_row)
    pairs = settings.pairs(wanted) if settings is not None else ()
    request = SearchRequest(by=queries.kind.target, limit=wanted, exact=settings is None, settings=pairs)
    ids: list[list[int]] = []
    seconds: list[float] = []
    for own, vector in zip(queries.ids[:only].tolist(), queries.vectors[:only], strict=True):
        result = search(db, vector, request)
        seconds.append(result.seconds)
        answers = [neighbour.id for neighbour in result.neighbours]
        if queries.kind.excludes_own_row:
            answers = [row_id for row_id in answers if row_id != own]
        ids.append(answers[:k])
    return _Found(ids, seconds)


class Judge:
    """Counts what was found against what is true, by distances computed again from the stored vectors.

    `found` are the ids of all rows that will be judged: their vectors are read once.
    """

    def __init__(self, db: Database, queries: QuerySet, truth: TrueNeighbours, found: Ids) -> None:
        self._queries, self._truth = queries, truth
        by: By = queries.kind.target
        self._stored = vectors_of(db, by, found)

    def recall(self, found: list[list[int]], k: int) -> Recall:
        """Recall at k of the queries' answers.

        A found row counts when its distance is at most that of the k-th true neighbour plus the tolerance: which of
        several rows with one distance comes is chance. Where the table has fewer than k rows, those are all.
        """
        counts, by_id = [], []
        for query, ids in enumerate(found):
            true_ids = self._truth.ids[query, :k]
            there = int((true_ids >= 0).sum())
            limit = self._truth.distances[query, there - 1] + TOLERANCE if there else -np.inf
            near = int((self._distances(query, np.array(ids, dtype=np.int64)) <= limit).sum())
            counts.append(min(near, there) / max(there, 1))
            by_id.append(len(set(ids) & set(true_ids.tolist())) / max(there, 1))
        return Recall.of(np.array(counts), np.array(by_id))

    def _distances(self, query: int, ids: Ids) -> npt.NDArray[np.float64]:
        places = np.searchsorted(self._stored.ids, ids)
        vectors: Vectors = self._stored.vectors[places]
        return cosine_distances(self._queries.vectors[query], vectors)
