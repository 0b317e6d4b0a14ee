"""Measures one kind of query: every search setting with half of the queries, the chosen one with the other half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from laion_assets.progress import Log
from laion_assets.recall.cost import measured_cost
from laion_assets.recall.exact import TrueNeighbours
from laion_assets.recall.figures import (
    KindSummary,
    Latency,
    Measurement,
    SearchSettings,
)
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.judge import choose
from laion_assets.recall.methods import Exact, Method, Question
from laion_assets.recall.queries import COPY_DISTANCE, QuerySet
from laion_assets.recall.recall_plan import EXACT_SEARCHES, TIMED_SEARCHES, RecallPlan
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions


class KindRun:
    """The measurement of one kind of query on one table."""

    def __init__(
        self, db: Database, plan: RecallPlan, method: Method, queries: QuerySet, truth: TrueNeighbours, doing: Log
    ) -> None:
        self._db, self._plan, self._method, self.queries, self._truth = db, plan, method, queries, truth
        self._doing = doing
        states = [state for state in partitions(db) if plan.shards is None or state.shard in plan.shards]
        self._shards = [state.shard for state in states]
        largest = max(state.rows for state in states)
        self._grid = plan.grid if plan.grid is not None else method.settings_to_try(largest)
        # A single query both chooses and reports, since there is no other.
        self._half = max(1, len(queries) // 2)
        self._reporting = self._half if len(queries) > 1 else 0

    def first_search(self) -> float:
        """Seconds of one search of all partitions. What this search reads then stays in the engine's cache."""
        question = Question(self.queries.kind.target, 10, self._plan.shards)
        return self._method.find(self._db, self.queries.vectors[0], question, self._grid[0]).seconds

    def run(self, origin: str, cold_ms: float | None) -> tuple[KindSummary, list[Measurement]]:
        """Measures every setting with the choosing half, then the chosen one with the reporting half."""
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
        """Asks the queries from `start` to `end` at each setting; times up to `timed` searches of all partitions."""
        at_100 = min(end, start + max(1, self._plan.queries_at_100 // 2)) if self._plan.queries_at_100 else start
        if self.queries.kind.given and (self._truth.ids[start:at_100, :100] < 0).any():
            # The loaded ones of a hundred given neighbours are fewer: to find them among 100 rows is easier.
            at_100 = start
        ten = [self._asked(settings, 10, start, end) for settings in grid]
        hundred = [self._asked(settings, 100, start, at_100) for settings in grid]
        answers = (pair for found in (*ten, *hundred) for pair in enumerate(found.ids, start))
        counter = HitCounter(self._db, self.queries, self._truth, answers)
        return [
            Measurement(
                self.queries.kind.name,
                settings,
                counter.recall(at_ten.ids, 10, start),
                counter.recall(at_hundred.ids, 100, start) if at_hundred.ids else None,
                Latency.of(
                    self._timed(self._method, settings, start, timed)
                    if self.queries.left_out == "partition"
                    else at_ten.seconds
                ),
                self._method.candidates(settings, self._question(start, 100).limit) if at_hundred.ids else 0,
            )
            for settings, at_ten, at_hundred in zip(grid, ten, hundred, strict=True)
        ]

    def _asked(self, settings: SearchSettings, k: int, start: int, end: int) -> _Answers:
        """The k rows that each query finds, without the rows that are left out for it."""
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
        question = Question(self.queries.kind.target, 10, self._plan.shards)
        vectors = self.queries.vectors[start : start + count]
        return [method.find(self._db, vector, question, settings).seconds for vector in vectors]

    def _question(self, place: int, k: int) -> Question:
        """A query's search for k rows: k + 1 if its own row is to be left out, and without its own partition."""
        queries = self.queries
        shards = self._plan.shards
        if queries.left_out == "partition":
            own = queries.own_shards[place]
            shards = tuple(shard for shard in self._shards if shard != own)
        return Question(queries.kind.target, k + int(queries.left_out == "row"), shards)


@dataclass(frozen=True)
class _Answers:
    """The ids that one set's searches found at one setting, in the order of the queries, and the seconds of each."""

    ids: list[list[int]]
    seconds: list[float]
