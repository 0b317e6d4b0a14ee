"""Measures recall and latency of a method against exact search, over search settings. What it finds is in figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from laion_assets.errors import TableError
from laion_assets.index.graphs import say_nothing
from laion_assets.progress import Log, saying_each_minute
from laion_assets.recall.cost import measured_cost
from laion_assets.recall.exact import ExactAnswers, TrueNeighbours, true_neighbours
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    SearchSettings,
    choose,
    recall_folder,
)
from laion_assets.recall.given import GivenQueries, given_queries
from laion_assets.recall.judge import TOLERANCE, Judge
from laion_assets.recall.methods import Exact, Hnsw, Method, Question
from laion_assets.recall.queries import COPY_DISTANCE, OVERSAMPLE, QuerySet, like_sets
from laion_assets.recall.unseen import OWN_ROW, UnseenQueries, unseen_queries
from laion_assets.table.database import Database
from laion_assets.table.schema import PartitionState, partitions, require_table
from laion_assets.table.vectors import By, draw_rows

ROWS_A_QUERY, LEAST_QUERIES = 500, 30
"""Of a small table fewer queries are asked. From 100,000 rows on, where a scan begins to be slower, it is 200."""

EXACT_SEARCHES = 20
"""Exact searches that are timed a kind: they are all alike, and on a large table slow."""

TIMED_SEARCHES = 20
"""Searches of all partitions that are timed at each search setting, where recall is that of all but one."""


@dataclass(frozen=True)
class Plan:
    """What an evaluation does: queries a kind, their seed, and the settings that are tried.

    The first half of the queries is asked at every setting of the `grid` (the method's own, for parts of this size,
    unless given) and chooses among them. The second half is asked at the chosen settings alone, and its figures are
    reported: the best of many figures is too good on the queries that chose it. Recall@100 is measured with
    `queries_at_100` of the queries, 0 for not at all: with rescoring such a search reads ten times the rows, and its
    mean over queries is as steady with a quarter of them.
    """

    queries: int = 200
    seed: int = 0
    grid: Sequence[SearchSettings] | None = None
    queries_at_100: int = 50


def plan_for(states: Sequence[PartitionState], queries: int) -> Plan:
    """The plan for a table of these partitions: one query for each 500 rows, at least 30, at most `queries`, and a
    quarter of them at 100."""
    rows = sum(state.rows for state in states)
    count = min(queries, max(LEAST_QUERIES, rows // ROWS_A_QUERY))
    return Plan(count, queries_at_100=(count + 3) // 4)


def searches_a_kind(queries: int, settings: int) -> tuple[float, float]:
    """About how many searches for 10 and for 100 rows one kind takes at so many search settings, in a table of several
    partitions: the choosing half at each, some for the clock, two for the proof of use; then the reporting half."""
    half = queries / 2
    timed = min(half, TIMED_SEARCHES)
    return settings * (half + timed + 2) + 2 * half, (settings + 1) * max(1.0, queries / 8)


def evaluate(
    db: Database,
    plan: Plan | None = None,
    *,
    method: Method | None = None,
    unseen: UnseenQueries | None = None,
    folder: Path | None = None,
    log: Log | None = None,
) -> Evaluation:
    """Recall and latency of a method, HNSW unless given, for every kind of query; without a plan, by that for its size.

    With `unseen`, these queries alone are asked, of their table; else queries that the index has not seen, and rows of
    the table as `--like` asks them. Raises `TableError`: without rows, when the index is not whole or not the one that
    the settings name, and when a search does not use it.
    """
    if unseen is not None:
        run_plan, say = _ready(db, plan), log or say_nothing
        return _evaluated(db, run_plan, method or Hnsw(), [(unseen, folder or recall_folder(db.settings), ())], say)
    return evaluate_methods(db, [method or Hnsw()], plan, folder=folder, log=log)[0]


def evaluate_methods(
    db: Database,
    methods: Sequence[Method],
    plan: Plan | None = None,
    *,
    folder: Path | None = None,
    log: Log | None = None,
) -> list[Evaluation]:
    """An evaluation of each method, all by the same queries: those that graphs have not seen where one of the methods
    is by graphs. Raises `TableError` as `evaluate` does."""
    plan, say = _ready(db, plan), log or say_nothing
    folder = folder or recall_folder(db.settings)
    likes = like_sets(db, draw_rows(db, OVERSAMPLE * plan.queries, plan.seed), plan.queries, plan.seed)
    in_graphs = any(method.in_graphs for method in methods)
    for method in methods:
        method.require_whole(db)
    given = given_queries(db, plan.queries, say)
    with unseen_queries(db, plan.queries, plan.seed, in_graphs=in_graphs, log=say) as queries:
        asked: list[Asked] = [(queries, folder, likes)]
        if queries.db is not db:  # a copy, which nobody will ask again
            for method in methods:
                method.build_in_copy(queries.db)
            asked = [(queries, None, ()), (UnseenQueries(db, [], OWN_ROW), folder, likes)]
        return [_evaluated(db, plan, method, asked, say, given) for method in methods]


Asked = tuple[UnseenQueries, Path | None, Sequence[QuerySet]]
"""Queries of one table, where their true neighbours are kept, and rows of the table as `--like` asks them."""


def _ready(db: Database, plan: Plan | None) -> Plan:
    """The plan, or that for the table's size. Raises `TableError` where there is nothing to measure."""
    require_table(db)
    states = partitions(db)
    if not states:
        raise TableError(db.subject, found="no rows", advice="load a shard first: laion-assets load 0")
    return plan or plan_for(states, db.settings.recall_queries)


def _evaluated(
    db: Database,
    plan: Plan,
    method: Method,
    asked: Sequence[Asked],
    say: Log,
    given: Sequence[GivenQueries] = (),
) -> Evaluation:
    """One method's evaluation, of an index that is the same at the end."""
    started, states = time.perf_counter(), partitions(db)
    facts = method.require_whole(db)
    with saying_each_minute(say) as doing:
        run = _Run(plan, method, say, doing)
        for queries, folder, likes in asked:
            run.measure(queries, folder, likes)
    for each in given:
        run.measure_given(db, each)
    if method.require_whole(db) != facts:
        raise TableError(
            db.subject,
            found="other partitions, or another index, than when the evaluation began",
            expected="the same throughout",
            advice="materialize recall_report again",
        )
    rows = sum(state.rows for state in states)
    return Evaluation(
        rows=rows,
        shards=[state.shard for state in states],
        method=method.name,
        index=facts.description,
        declared=facts.declared,
        parts=facts.parts,
        target=db.settings.recall_target,
        targets={str(kind): target for kind, target in db.settings.recall_targets.items()},
        tolerance=TOLERANCE,
        seed=run.plan.seed,
        exact_seconds=run.exact_seconds,
        exact_from_store=run.exact_from_store,
        seconds=time.perf_counter() - started,
        kinds=run.summaries,
        measurements=run.measurements,
        bytes_resident=method.bytes_resident(db, rows),
    )


class _Run:
    """One evaluation under way: what was measured so far."""

    def __init__(self, plan: Plan, method: Method, log: Log, doing: Log) -> None:
        self.plan, self._method, self._log = plan, method, log
        self.summaries: list[KindSummary] = []
        self.measurements: list[Measurement] = []
        self.exact_seconds = 0.0
        self.exact_from_store = True
        self._cold: dict[By, float | None] = {}
        self._doing = doing

    def measure(self, asked: UnseenQueries, folder: Path | None, likes: Sequence[QuerySet] = ()) -> None:
        """Asks the query sets of one table, and rows of it as `--like` does; true neighbours are kept in `folder`."""
        sets = [*asked.sets, *likes]
        if not all(map(len, sets)):
            raise TableError(
                asked.db.subject,
                found="no vector to ask with",
                expected=f"vectors of {asked.db.settings.dataset.dimension} elements in every column",
            )
        exact = self._true_neighbours(asked.db, sets, folder)
        self._cold.clear()
        for queries, truth in zip(sets, exact.neighbours, strict=True):
            kind = _KindRun(asked.db, self.plan, self._method, queries, truth, self._doing)
            cold = self._cold_ms(asked.db, kind)
            summary, measured = kind.run(OWN_ROW if queries.kind.like else asked.origin, cold)
            self.summaries.append(summary)
            self.measurements += measured
            self._log(f"{summary.kind}: recall@10 {summary.chosen.at_10} at {summary.chosen.search}")

    def measure_given(self, db: Database, given: GivenQueries) -> None:
        """Asks queries whose true neighbours somebody else computed."""
        kind = _KindRun(db, self.plan, self._method, given.queries, given.truth, self._log)
        summary, measured = kind.run(given.origin, None)
        self.summaries.append(summary)
        self.measurements += measured
        self._log(f"{summary.kind}: recall@10 {summary.chosen.at_10} at {summary.chosen.search}")

    def _true_neighbours(self, db: Database, sets: list[QuerySet], folder: Path | None) -> ExactAnswers:
        self._doing(f"comparing {sum(map(len, sets)):,} queries with every row")
        exact = true_neighbours(db, sets, 100 if self.plan.queries_at_100 else 10, folder)
        self.exact_seconds += exact.seconds
        self.exact_from_store &= exact.from_store
        source = "from the store" if exact.from_store else f"in {exact.seconds:.1f} s"
        self._log(f"true neighbours of {sum(map(len, sets)):,} queries {source}")
        return exact

    def _cold_ms(self, db: Database, kind: _KindRun) -> float | None:
        """Milliseconds of the first search of a column after what it uses was taken out of the engine's memory."""
        column = kind.queries.kind.target
        if column not in self._cold:
            cold = self._method.make_cold(db)
            seconds = kind.first_search()
            self._cold[column] = seconds * 1000 if cold else None
        return self._cold[column]


class _KindRun:
    """One kind of query, of one table."""

    def __init__(
        self, db: Database, plan: Plan, method: Method, queries: QuerySet, truth: TrueNeighbours, doing: Log
    ) -> None:
        self._db, self._plan, self._method, self.queries, self._truth = db, plan, method, queries, truth
        self._doing = doing
        states = partitions(db)
        self._shards = [state.shard for state in states]
        largest = max(state.rows for state in states)
        self._grid = plan.grid if plan.grid is not None else method.settings_to_try(largest)
        # One query chooses and reports: there is no other.
        self._half = max(1, len(queries) // 2)
        self._reporting = self._half if len(queries) > 1 else 0

    def first_search(self) -> float:
        """Seconds of one search of all partitions; what it reads then stays in the engine's cache."""
        question = Question(self.queries.kind.target, 10)
        return self._method.find(self._db, self.queries.vectors[0], question, self._grid[0]).seconds

    def run(self, origin: str, cold_ms: float | None) -> tuple[KindSummary, list[Measurement]]:
        """Every setting with the choosing half, then the chosen one with the reporting half."""
        name = self.queries.kind.name
        for settings in self._grid:
            question = self._question(0, 10)
            self._method.require_use(self._db, self.queries.vectors[0], question, settings)
        measured = self._measured(self._grid, 0, self._half, TIMED_SEARCHES)
        targets = {str(kind): target for kind, target in self._db.settings.recall_targets.items()}
        best = choose(measured, targets.get(name, self._db.settings.recall_target)).search
        (chosen,) = self._measured([best], self._reporting, len(self.queries), len(self.queries))
        _, cost = measured_cost(self._db, lambda: self._timed(self._method, best, self._reporting, TIMED_SEARCHES))
        exact, exact_cost = measured_cost(self._db, lambda: self._timed(Exact(), SearchSettings(), 0, EXACT_SEARCHES))
        chosen = replace(chosen, cost=cost)
        copies = int((self._truth.distances[:, min(9, self._truth.distances.shape[1] - 1)] < COPY_DISTANCE).sum())
        return KindSummary(name, origin, self._half, copies, Latency.of(exact), cold_ms, chosen, exact_cost), measured

    def _measured(self, grid: Sequence[SearchSettings], start: int, end: int, timed: int) -> list[Measurement]:
        """The queries from `start` to `end` at each setting; up to `timed` searches of all partitions are timed."""
        at_100 = min(end, start + max(1, self._plan.queries_at_100 // 2)) if self._plan.queries_at_100 else start
        ten = [self._asked(settings, 10, start, end) for settings in grid]
        hundred = [self._asked(settings, 100, start, at_100) for settings in grid]
        every = {row_id for found in (*ten, *hundred) for ids in found.ids for row_id in ids}
        judge = Judge(self._db, self.queries, self._truth, np.array(sorted(every), dtype=np.int64))
        return [
            Measurement(
                self.queries.kind.name,
                settings,
                judge.recall(at_ten.ids, 10, start),
                judge.recall(at_hundred.ids, 100, start) if at_hundred.ids else None,
                Latency.of(
                    self._timed(self._method, settings, start, timed)
                    if self.queries.left_out == "partition"
                    else at_ten.seconds
                ),
                settings.multiplier_for(self._question(start, 100).limit) if at_hundred.ids else 0,
            )
            for settings, at_ten, at_hundred in zip(grid, ten, hundred, strict=True)
        ]

    def _asked(self, settings: SearchSettings, k: int, start: int, end: int) -> _Answers:
        """The k rows that each query finds, what is left out for it left out."""
        kind = self.queries.kind.name
        self._doing(f"{kind}: searching {end - start} times for {k} rows by {self._method.name} at {settings}")
        answers = _Answers([], [])
        own_rows = self.queries.own_rows.tolist()
        for place in range(start, end):
            question = self._question(place, k)
            found = self._method.find(self._db, self.queries.vectors[place], question, settings)
            answers.ids.append([row_id for row_id in found.ids if row_id != own_rows[place]][:k])
            answers.seconds.append(found.seconds)
        return answers

    def _timed(self, method: Method, settings: SearchSettings, start: int, count: int) -> list[float]:
        """Seconds of up to `count` searches of all partitions."""
        question = Question(self.queries.kind.target, 10)
        vectors = self.queries.vectors[start : start + count]
        return [method.find(self._db, vector, question, settings).seconds for vector in vectors]

    def _question(self, place: int, k: int) -> Question:
        """A query's search for k rows: one more where its own row is to be left out, without its own partition."""
        queries = self.queries
        shards = None
        if queries.left_out == "partition":
            own = queries.own_shards[place]
            shards = tuple(shard for shard in self._shards if shard != own)
        return Question(queries.kind.target, k + int(queries.left_out == "row"), shards)


@dataclass(frozen=True)
class _Answers:
    """Ids that one set's searches gave at one setting, query by query as they came, and the seconds of each."""

    ids: list[list[int]]
    seconds: list[float]
