"""The ways to find neighbours: a method is a small object that makes the statement of a search. It runs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from laion_assets.searching.condition import DISTANCE, Condition
from laion_assets.searching.request import SearchRequest
from laion_assets.table.database import Database
from laion_assets.table.vectors import vector_sql

COLUMNS = ("caption", "url", "shard", "id", "NSFW")
"""What an answer shows of its row, after the distance."""

IDS_ALONE = ("'' AS no_caption", "'' AS no_url", "shard", "id", "'' AS no_flag")
"""The same columns of an answer whose rows are read later: texts are most of a search's CPU time beside the graph."""

LARGE_STATEMENTS: dict[str, object] = {"max_query_size": 1 << 24}

SERVER_LIMIT = 1000
"""ClickHouse's own max_limit_for_vector_search_queries, beyond which it scans everything and does not say so."""

MULTIPLIER = "vector_search_index_fetch_multiplier"

MOST_RESCORED = 10_000
"""Candidates of a part that are ranked by their stored vectors at most: each may lie in a granule of its own."""

FEW_ROWS = 100
"""Rows of all parts from which on captions and urls are read after the sort, for the answer alone
(query_plan_optimize_lazy_materialization). Of few rows the second read is dear: 5.4 ms of CPU time a search of one
part, 4.7 without; of ten rows from each of 40 parts it is cheaper (26 ms where all columns at once took 31)."""


@dataclass(frozen=True)
class Extent:
    """How much a statement looks at: candidates beside a condition, and the parts of the table, None if not known."""

    candidates: int = 0
    parts: int | None = None


@dataclass(frozen=True)
class Statement:
    """A SELECT whose columns are the distance and `COLUMNS`, and the settings that it runs with."""

    sql: str
    settings: dict[str, object]


ALL = Extent()


class Method(Protocol):
    """Makes the statement of a search for a vector, (dimension,).

    With a condition, a method that ranks candidates before it filters them looks at so many as the extent says; the
    answer is in full where as many rows as asked for meet the condition, since all candidates are nearer than any other
    row. A method that looks at every row needs no extent.
    """

    name: str
    exact: bool

    def statement(
        self,
        db: Database,
        request: SearchRequest,
        vector: npt.NDArray[np.float32],
        condition: Condition | None = None,
        extent: Extent = ALL,
    ) -> Statement:
        """The statement for a request that was checked."""


class Exact:
    """Every row that meets the condition is compared with the vector."""

    name = "exact"
    exact = True

    def statement(
        self,
        db: Database,
        request: SearchRequest,
        vector: npt.NDArray[np.float32],
        condition: Condition | None = None,
        extent: Extent = ALL,  # noqa: ARG002 - it looks at all rows
    ) -> Statement:
        """One SELECT with the condition in its WHERE, without any index."""
        sql = (
            f"SELECT {distance_sql(request, vector)}, {answer_columns(request)} FROM {db.table}"
            f"{where_sql(request, condition)} ORDER BY {DISTANCE} LIMIT {request.limit}"
        )
        return Statement(sql, {"readonly": 2, **LARGE_STATEMENTS, **dict(request.settings), "use_skip_indexes": 0})


class Graph:
    """The HNSW index gives candidates, nearest first."""

    name = "graph"
    exact = False

    def statement(
        self,
        db: Database,
        request: SearchRequest,
        vector: npt.NDArray[np.float32],
        condition: Condition | None = None,
        extent: Extent = ALL,
    ) -> Statement:
        """One SELECT; with a condition, one over the candidates of another, which is not filtered.

        A condition beside ORDER BY would be applied in each part to that part's own candidates: a part that has no more
        of them may have nearer rows than the answers of another part, and nothing says so. A condition on the distance
        would have everything scanned.
        """
        limit = request.limit if condition is None else extent.candidates
        columns = answer_columns(request)
        # Above a condition, columns have their own names: what the condition names is the table's.
        read = columns if condition is None else f"{', '.join(_read(request))}, ({condition.text}\n) AS met"
        sql = (
            f"SELECT {distance_sql(request, vector)}, {read} FROM {db.table}{where_sql(request)} "
            f"ORDER BY {DISTANCE} LIMIT {limit}"
        )
        if condition is not None:
            sql = f"SELECT {DISTANCE}, {columns} FROM ({sql}) WHERE met ORDER BY {DISTANCE} LIMIT {request.limit}"
        return Statement(sql, _graph_settings(request, condition, limit, extent.parts))


EXACT, GRAPH = Exact(), Graph()


def method_of(request: SearchRequest) -> Method:
    """The method that a request asks for."""
    return EXACT if request.exact else GRAPH


def answer_columns(request: SearchRequest) -> str:
    """The columns of an answer after the distance."""
    return ", ".join(IDS_ALONE if request.ids_alone else COLUMNS)


def _read(request: SearchRequest) -> tuple[str, ...]:
    return ("shard", "id") if request.ids_alone else COLUMNS


def distance_sql(request: SearchRequest, vector: npt.NDArray[np.float32]) -> str:
    """The distance of a row from the vector, under its name."""
    return f"cosineDistance({request.by}_embedding, {vector_sql(vector)}) AS {DISTANCE}"


def where_sql(request: SearchRequest, condition: Condition | None = None) -> str:
    """The WHERE of a request's shards and a condition that was checked; nothing without either."""
    conditions: list[str] = []
    if request.shards is not None:
        conditions.append(f"shard IN ({', '.join(str(int(shard)) for shard in request.shards) or 'NULL'})")
    if condition is not None:
        # The line break ends a comment that the condition may end with.
        conditions.append(f"({condition.text}\n)")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _graph_settings(
    request: SearchRequest, condition: Condition | None, limit: int, parts: int | None
) -> dict[str, object]:
    own = dict(request.settings)
    if condition is not None and condition.names_distance:
        # The graph's own distances are of few bits; which of them are below a bound is told by those of the vectors.
        own["vector_search_with_rescoring"] = 1
    asked = limit
    if own.get("vector_search_with_rescoring"):
        # The multiplier was chosen for the rows of an answer, and candidates of a condition are many times more.
        multiplier = min(float(str(own.get(MULTIPLIER, 1))), max(1.0, MOST_RESCORED / limit))
        own[MULTIPLIER] = multiplier
        asked = round(limit * multiplier)
    settings: dict[str, object] = {"readonly": 2, **LARGE_STATEMENTS}
    if asked * (parts or 1) < FEW_ROWS:
        settings["query_plan_optimize_lazy_materialization"] = 0
    if asked > SERVER_LIMIT:
        settings["max_limit_for_vector_search_queries"] = asked
    return {**settings, **own}
