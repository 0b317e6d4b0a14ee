"""Proves that a search used the vector index. EXPLAIN is not enough: it prints an index's name also if it is unused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from laion_assets.index.counter import graphs_searched
from laion_assets.searching.method_statements import RESCORING
from laion_assets.searching.statement import (
    SearchRequest,
    checked_vector,
    search,
    search_statement,
)
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions


@dataclass(frozen=True)
class IndexUse:
    """What one search did: whether its plan reads `_distance` from the index, and how many graphs it searched.

    `expected` is the number of parts to be searched; each has its own graph.
    """

    in_plan: bool
    searches: int
    expected: int
    rescored: bool

    @property
    def fault(self) -> str | None:
        """Why this does not prove that the index was used; None if it does."""
        if self.searches < self.expected:
            return f"{self.searches} graphs searched where {self.expected} parts have one: the rest was scanned"
        # With rescoring the rows come from the graph but distances from the vectors: the plan has no `_distance`.
        if not self.in_plan and not self.rescored:
            return "the plan does not read _distance from the index: everything was scanned"
        return None


def index_use(db: Database, vector: npt.ArrayLike, request: SearchRequest) -> IndexUse:
    """Runs a search and reads its plan, and the increase of ClickHouse's own count of searched graphs.

    On a server that others search at the same time the count may increase more. Then it may fail to prove a use, but
    the plan still counts. Raises as `search` does.
    """
    target = checked_vector(vector, db.settings.dataset.dimension)
    before = graphs_searched(db)
    search(db, vector, request)
    rise = graphs_searched(db) - before
    statement = search_statement(db, request, target)
    plan = db.rows(f"EXPLAIN actions = 1 {statement.sql}", settings=statement.settings)
    outputs = [str(line).partition("Output:")[2].split(", ") for (line,) in plan if "Output:" in str(line)]
    return IndexUse(
        in_plan=any("_distance" in (name.strip() for name in names) for names in outputs),
        searches=rise,
        expected=searched_parts(db, request),
        rescored=str(statement.settings.get(RESCORING, 0)) in ("1", "True"),
    )


def searched_parts(db: Database, request: SearchRequest) -> int:
    """How many parts a request searches; each has its own graph."""
    return sum(state.parts for state in partitions(db) if request.shards is None or state.shard in request.shards)
