"""The statement of a search by each method: exact search and graphs. It makes statements, and runs none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from laion_assets.columns import DISTANCE
from laion_assets.searching.condition import Condition
from laion_assets.searching.request import SearchRequest
from laion_assets.table.database import Database
from laion_assets.table.vectors import vector_sql

COLUMNS = ("caption", "url", "shard", "id", "NSFW")
"""Columns of an answer's row, after the distance."""

IDS_ALONE = ("'' AS no_caption", "'' AS no_url", "shard", "id", "'' AS no_flag")
"""The same columns if the texts are read later: without the graph, texts take most of a search's CPU time."""

LARGE_STATEMENTS: dict[str, object] = {"max_query_size": 1 << 24}

SERVER_LIMIT = 1000
"""ClickHouse's default max_limit_for_vector_search_queries. Above it ClickHouse scans everything without a message."""

MULTIPLIER = "vector_search_index_fetch_multiplier"

RESCORING = "vector_search_with_rescoring"

MOST_RESCORED = 10_000
"""Most candidates of a part that are ranked by their stored vectors: each may be in a different granule."""

FEW_ROWS = 100
"""From this many rows of all parts on, captions and URLs are read after the sort, only for the answer
(query_plan_optimize_lazy_materialization). For few rows the second read is expensive: a search of one part takes 5.4 ms
of CPU time with it, 4.7 without. For ten rows from each of 40 parts it is cheaper (26 ms; all columns at once took
31)."""


@dataclass(frozen=True)
class Extent:
    """How much a statement reads: candidates for a condition, and the number of parts of the table, None if unknown."""

    candidates: int = 0
    parts: int | None = None


@dataclass(frozen=True)
class Statement:
    """A SELECT whose columns are the distance and `COLUMNS`, with the settings for running it."""

    sql: str
    settings: dict[str, object]


ALL = Extent()


class Method(Protocol):
    """Makes the statement of a search for a vector, (dimension,).

    A method that ranks candidates before it filters them by a condition reads as many candidates as the extent says.
    The answer is complete if as many rows as asked for meet the condition, since all candidates are nearer than any
    other row. A method that compares every row needs no extent.
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
    """Compares every row that meets the condition with the vector."""

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
        """One SELECT with the condition in its WHERE, without an index."""
        sql = (
            f"SELECT {distance_sql(request, vector)}, {answer_columns(request)} FROM {db.table}"
            f"{where_sql(request, condition)} ORDER BY {DISTANCE} LIMIT {request.limit}"
        )
        return Statement(sql, {"readonly": 2, **LARGE_STATEMENTS, **dict(request.settings), "use_skip_indexes": 0})


class Graph:
    """Takes candidates from the HNSW index, nearest first."""

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
        """One SELECT; with a condition, a SELECT over the candidates of an inner one, which has no filter.

        A condition beside ORDER BY would be applied in each part to that part's own candidates. When a part runs out of
        candidates, it may still have nearer rows than the answers from another part, and there is no message. A
        condition on the distance would make ClickHouse scan everything.
        """
        limit = request.limit if condition is None else extent.candidates
        columns = answer_columns(request)
        # The inner SELECT keeps the table's column names, since the condition uses them.
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
    """The method object that a request asks for."""
    return EXACT if request.exact else GRAPH


def answer_columns(request: SearchRequest) -> str:
    """The columns of an answer after the distance."""
    return ", ".join(IDS_ALONE if request.ids_alone else COLUMNS)


def _read(request: SearchRequest) -> tuple[str, ...]:
    return ("shard", "id") if request.ids_alone else COLUMNS


def distance_sql(request: SearchRequest, vector: npt.NDArray[np.float32]) -> str:
    """The SQL for a row's distance from the vector, under its name."""
    return f"cosineDistance({request.by}_embedding, {vector_sql(vector)}) AS {DISTANCE}"


def where_sql(request: SearchRequest, condition: Condition | None = None) -> str:
    """The WHERE for a request's shards and a checked condition; empty if there are neither."""
    conditions: list[str] = []
    if request.shards is not None:
        conditions.append(f"shard IN ({', '.join(str(int(shard)) for shard in request.shards) or 'NULL'})")
    if request.without:
        conditions.append(f"shard NOT IN ({', '.join(str(int(shard)) for shard in request.without)})")
    if condition is not None:
        # The line break ends a comment that the condition may end with.
        conditions.append(f"({condition.text}\n)")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _graph_settings(
    request: SearchRequest, condition: Condition | None, limit: int, parts: int | None
) -> dict[str, object]:
    own = dict(request.settings)
    if condition is not None and condition.names_distance:
        # The graph's own distances have few bits. Whether a distance is below a bound needs those of the stored
        # vectors.
        own[RESCORING] = 1
    asked = limit
    if own.get(RESCORING):
        # The multiplier was chosen for the rows of an answer. With a condition there are many times more candidates.
        multiplier = min(float(str(own.get(MULTIPLIER, 1))), max(1.0, MOST_RESCORED / limit))
        own[MULTIPLIER] = multiplier
        asked = round(limit * multiplier)
    settings: dict[str, object] = {"readonly": 2, **LARGE_STATEMENTS}
    if asked * (parts or 1) < FEW_ROWS:
        settings["query_plan_optimize_lazy_materialization"] = 0
    if asked > SERVER_LIMIT:
        settings["max_limit_for_vector_search_queries"] = asked
    return {**settings, **own}
