"""Measures recall and latency of a method against exact search, over search settings. The figures are in figures.py."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

from laion_assets.errors import TableError
from laion_assets.index.graphs import say_nothing
from laion_assets.progress import Log, reporting_each_minute
from laion_assets.recall.exact import ExactAnswers, true_neighbours
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Measurement,
    recall_folder,
)
from laion_assets.recall.given import GivenQueries, given_queries
from laion_assets.recall.hits import TOLERANCE
from laion_assets.recall.kind_run import KindRun
from laion_assets.recall.methods import Hnsw, Method
from laion_assets.recall.queries import OVERSAMPLE, QuerySet, like_sets
from laion_assets.recall.recall_plan import RecallPlan, plan_for
from laion_assets.recall.unseen import OWN_ROW, UnseenQueries, unseen_queries
from laion_assets.table.database import Database
from laion_assets.table.hidden_rows import require_every_row
from laion_assets.table.schema import PartitionState, partitions, require_table
from laion_assets.table.vectors import By, draw_rows
from laion_assets.words import counted


def evaluate(
    db: Database,
    plan: RecallPlan | None = None,
    *,
    method: Method | None = None,
    unseen: UnseenQueries | None = None,
    folder: Path | None = None,
    log: Log | None = None,
) -> Evaluation:
    """Recall and latency of a method (HNSW by default) for every kind of query; the default plan is by the table's
    size.

    With `unseen`, only these queries are asked, on their table. Otherwise the queries are some that the index has not
    seen, and rows of the table as `--like` asks for them. Raises `TableError` if there are no rows, if the index is not
    complete or not the one that the settings name, and if a search does not use it.
    """
    if unseen is not None:
        run_plan, say = _ready(db, plan), log or say_nothing
        return _evaluated(db, run_plan, method or Hnsw(), [(unseen, folder or recall_folder(db.settings), ())], say)
    return evaluate_methods(db, [method or Hnsw()], plan, folder=folder, log=log)[0]


def evaluate_methods(
    db: Database,
    methods: Sequence[Method],
    plan: RecallPlan | None = None,
    *,
    leaving_out: Set[int] = frozenset(),
    folder: Path | None = None,
    log: Log | None = None,
) -> list[Evaluation]:
    """An evaluation of each method, all with the same queries. If one of the methods uses graphs, these are queries
    that the graphs have not seen. Partitions `leaving_out` are neither searched nor required in the index. Raises
    `TableError` as `evaluate` does."""
    plan, say = _ready(db, plan, leaving_out), log or say_nothing
    folder = folder or recall_folder(db.settings)
    likes = like_sets(db, draw_rows(db, OVERSAMPLE * plan.queries, plan.seed, plan.shards), plan.queries, plan.seed)
    in_graphs = any(method.in_graphs for method in methods)
    for method in methods:
        method.require_whole(db, plan.shards)
    given = given_queries(db, plan.queries, say, plan.shards)
    with unseen_queries(db, plan.queries, plan.seed, in_graphs=in_graphs, log=say, shards=plan.shards) as queries:
        asked: list[Asked] = [(queries, folder, likes)]
        if queries.db is not db:  # a copy, which is dropped after this evaluation
            for method in methods:
                method.build_in_copy(queries.db)
            asked = [(queries, None, ()), (UnseenQueries(db, [], OWN_ROW, plan.shards), folder, likes)]
        return [_evaluated(db, plan, method, asked, say, given) for method in methods]


Asked = tuple[UnseenQueries, Path | None, Sequence[QuerySet]]
"""Queries of one table, the folder of their true neighbours, and rows of the table as `--like` asks for them."""


def _ready(db: Database, plan: RecallPlan | None, leaving_out: Set[int] = frozenset()) -> RecallPlan:
    """The plan, or the default for the table's size, without these partitions. Raises `TableError` if there is nothing
    to measure."""
    require_table(db)
    require_every_row(db, "recall: a search compares every row if some are hidden")
    states = partitions(db)
    if not states:
        raise TableError(db.subject, found="no rows", advice="load a shard first: laion-assets load 0")
    kept = [state for state in states if state.shard not in leaving_out]
    if not kept:
        raise TableError(
            db.subject,
            found=f"{counted(len(states), 'partition')}, loaded since the index was built",
            expected="a partition that the index covers",
            advice="materialize vector_index (laion-assets index)",
        )
    plan = plan or plan_for(kept, db.settings.recall_queries)
    # Without a condition, the searches are those that users make.
    return plan if len(kept) == len(states) else replace(plan, shards=tuple(state.shard for state in kept))


def _measured_states(states: Sequence[PartitionState], plan: RecallPlan) -> list[PartitionState]:
    return [state for state in states if plan.shards is None or state.shard in plan.shards]


def _evaluated(
    db: Database,
    plan: RecallPlan,
    method: Method,
    asked: Sequence[Asked],
    say: Log,
    given: Sequence[GivenQueries] = (),
) -> Evaluation:
    """One method's evaluation. Its index must be the same at the beginning and the end."""
    started, states = time.perf_counter(), _measured_states(partitions(db), plan)
    facts = method.require_whole(db, plan.shards)
    with reporting_each_minute(say) as doing:
        run = _Run(plan, method, say, doing)
        for queries, folder, likes in asked:
            run.measure(queries, folder, likes)
    for each in given:
        run.measure_given(db, each)
    if method.require_whole(db, plan.shards) != facts:
        raise TableError(
            db.subject,
            found="other partitions, or another index, than when the evaluation began",
            expected="the same partitions and the same index until its end",
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
    """A running evaluation, with the measurements so far."""

    def __init__(self, plan: RecallPlan, method: Method, log: Log, doing: Log) -> None:
        self.plan, self._method, self._log = plan, method, log
        self.summaries: list[KindSummary] = []
        self.measurements: list[Measurement] = []
        self.exact_seconds = 0.0
        self.exact_from_store = True
        self._cold: dict[By, float | None] = {}
        self._doing = doing

    def measure(self, asked: UnseenQueries, folder: Path | None, likes: Sequence[QuerySet] = ()) -> None:
        """Asks the query sets of one table, and rows of it as `--like` does; keeps true neighbours in `folder`."""
        sets = [*asked.sets, *likes]
        if not all(map(len, sets)):
            raise TableError(
                asked.db.subject,
                found="no vector that can be a query",
                expected=f"vectors of {asked.db.settings.dataset.dimension} elements in every column",
            )
        exact = self._true_neighbours(asked, sets, folder)
        plan = replace(self.plan, shards=asked.shards)
        self._cold.clear()
        for queries, truth in zip(sets, exact.neighbours, strict=True):
            kind = KindRun(asked.db, plan, self._method, queries, truth, self._doing)
            cold = self._cold_ms(asked.db, kind)
            summary, measured = kind.run(OWN_ROW if queries.kind.like else asked.origin, cold)
            self.summaries.append(summary)
            self.measurements += measured
            self._log(f"{summary.kind}: recall@10 {summary.chosen.at_10} at {summary.chosen.search}")

    def measure_given(self, db: Database, given: GivenQueries) -> None:
        """Asks queries whose true neighbours others computed."""
        kind = KindRun(db, self.plan, self._method, given.queries, given.truth, self._log)
        summary, measured = kind.run(given.origin, None)
        self.summaries.append(summary)
        self.measurements += measured
        self._log(f"{summary.kind}: recall@10 {summary.chosen.at_10} at {summary.chosen.search}")

    def _true_neighbours(self, asked: UnseenQueries, sets: list[QuerySet], folder: Path | None) -> ExactAnswers:
        self._doing(f"comparing {sum(map(len, sets)):,} queries with every row")
        exact = true_neighbours(asked.db, sets, 100 if self.plan.queries_at_100 else 10, folder, asked.shards)
        self.exact_seconds += exact.seconds
        self.exact_from_store &= exact.from_store
        source = "from the store" if exact.from_store else f"in {exact.seconds:.1f} s"
        self._log(f"true neighbours of {sum(map(len, sets)):,} queries {source}")
        return exact

    def _cold_ms(self, db: Database, kind: KindRun) -> float | None:
        """Milliseconds of the first search of a column after its index was removed from the engine's memory."""
        column = kind.queries.kind.target
        if column not in self._cold:
            cold = self._method.make_cold(db)
            seconds = kind.first_search()
            self._cold[column] = seconds * 1000 if cold else None
        return self._cold[column]
