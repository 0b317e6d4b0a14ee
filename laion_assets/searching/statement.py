"""Nearest neighbours by SQL, exact or by the index. recall/ measures how good the index is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import SearchError, ServerRefusedError, TableError
from laion_assets.searching.condition import Condition, check_condition
from laion_assets.searching.counters import Use, counted, counting
from laion_assets.searching.graph_facts import GraphFacts, graph_facts
from laion_assets.searching.known import Known, kind_of, known_of
from laion_assets.searching.method_statements import (
    ALL,
    EXACT,
    RESCORING,
    Extent,
    Method,
    Statement,
    method_of,
    where_sql,
)
from laion_assets.searching.query_vector import checked_vector
from laion_assets.searching.request import (
    MAX_LIMIT,
    Neighbour,
    SearchRequest,
    SearchResult,
    check_request,
    checked_by,
)
from laion_assets.table.database import Database
from laion_assets.table.hidden_rows import hides_rows
from laion_assets.table.schema import partitions, require_table
from laion_assets.table.vectors import By

__all__ = [
    "MAX_LIMIT",
    "Neighbour",
    "SearchRequest",
    "SearchResult",
    "check_request",
    "checked_by",
    "checked_vector",
    "search",
    "search_statement",
    "typed_row",
    "vector_of",
]

CANDIDATES_A_NEIGHBOUR = 4
"""Number of candidates that are read first if there is a condition. If half of the rows meet the condition, this is
enough in all but a thousandth of searches for ten rows (binomial, at least 10 of 40)."""

MOST_CANDIDATES = 40_000
"""From this many candidates on a scan is used instead, since its cost does not grow with their number."""

ROWS_A_CANDIDATE = 20
"""Number of rows that are scanned in the time of one candidate, which is found in a graph, read and ranked. If there
are fewer rows than the candidates of all parts times this number, a scan is as fast."""


@dataclass(frozen=True)
class _Found:
    """The answer's rows, nearest first, whether all rows were compared, and the counters."""

    rows: list[Sequence[Any]]
    exact: bool
    use: Use | None = None
    candidates_that_met: int | None = None
    with_deleted_rows: int = 0
    hidden_rows: bool = False


def search(db: Database, vector: npt.ArrayLike, request: SearchRequest) -> SearchResult:
    """The rows nearest to `vector`, (dimension,), of any length but 0, by cosine distance.

    With a condition the index gives more and more candidates until as many as asked for meet it. If a scan is no
    slower, all rows are compared instead. Shards whose graphs have deleted rows are compared whole, and all shards if
    rows are hidden from this user. What was found out about the table is kept with the connection for ten seconds.

    Raises `SearchError` for an invalid vector, limit or condition, and `TableError` when there is no table.
    """
    target = checked_vector(vector, db.settings.dataset.dimension)
    check_request(request, db.settings.dataset)
    known = known_of(db)
    started = time.perf_counter()
    try:
        condition = known.condition(request.where, lambda text: check_condition(db, text)) if request.where else None
        found = _find_beside_deleted_rows(db, known, request, target, condition)
    except TableError:
        known.forget()
        # Checked only after a failure: three more queries before each search took as long as the search itself.
        require_table(db)
        raise
    seconds = time.perf_counter() - started
    neighbours = [Neighbour(rank, *typed_row(row)) for rank, row in enumerate(found.rows, start=1)]
    graphs, parts = (None, None) if found.use is None else (found.use.graphs, found.use.parts)
    return SearchResult(
        neighbours,
        request.by,
        found.exact,
        seconds,
        found.candidates_that_met,
        graphs,
        parts,
        with_deleted_rows=found.with_deleted_rows,
        hidden_rows=found.hidden_rows,
    )


def _find_beside_deleted_rows(
    db: Database, known: Known, request: SearchRequest, target: npt.NDArray[np.float32], condition: Condition | None
) -> _Found:
    """The rows of the shards whose graphs can be used, and of the others by comparing every row.

    ClickHouse takes candidates from a graph first, and leaves out deleted rows among them afterwards. So a graph with
    deleted rows gives too few candidates, and the answer has rows of other parts in their place.
    """
    if method_of(request).exact:
        return _find(db, known, request, target, condition)
    if known.hides_rows(lambda: hides_rows(db)):
        return _Found(_rows(db, known, EXACT, request, target, condition)[0], exact=True, hidden_rows=True)
    facts = known.graph_facts(lambda: graph_facts(db))
    request = _with_cosine_distances(request, facts)
    if not facts.with_deleted_rows:
        return _find(db, known, request, target, condition)
    asked = {state.shard for state in partitions(db)} if request.shards is None else set(request.shards)
    compared = tuple(sorted(asked & facts.with_deleted_rows))
    if not compared:
        return _find(db, known, request, target, condition)
    rows = _rows(db, known, EXACT, replace(request, shards=compared), target, condition)[0]
    if asked <= facts.with_deleted_rows:
        return _Found(rows, exact=True, with_deleted_rows=len(compared))
    others = _find(db, known, replace(request, without=compared), target, condition)
    nearest = sorted([*rows, *others.rows], key=lambda row: float(row[0]))[: request.limit]
    return replace(others, rows=nearest, with_deleted_rows=len(compared))


def _with_cosine_distances(request: SearchRequest, facts: GraphFacts) -> SearchRequest:
    """The request with rescoring if the graphs count bits: the distances are then those of the stored vectors."""
    if f"{request.by}_embedding" not in facts.of_bits:
        return request
    return replace(request, settings=(*(pair for pair in request.settings if pair[0] != RESCORING), (RESCORING, 1)))


def _find(
    db: Database, known: Known, request: SearchRequest, target: npt.NDArray[np.float32], condition: Condition | None
) -> _Found:
    method, kind = method_of(request), kind_of(request)
    use = known.use_of(kind)
    if method.exact or (use is not None and use.scanned):
        rows = _rows(db, known, EXACT, request, target, condition)[0]
        return _Found(rows, exact=True, use=use)
    candidates = request.limit if condition is None else request.limit * CANDIDATES_A_NEIGHBOUR
    rows_there: int | None = None
    while True:
        extent = Extent(candidates, None if use is None else use.parts)
        rows, now = _rows(db, known, method, request, target, condition, extent, count=use is None)
        if now is not None:
            known.note(kind, now)
        use = now or use
        if condition is None or len(rows) >= request.limit:
            return _Found(rows, exact=now is not None and now.scanned, use=now)
        rows_there = _row_count(db, request) if rows_there is None else rows_there
        candidates = _more_candidates(candidates, len(rows), request.limit)
        parts = 1 if use is None else use.parts
        if (use and use.scanned) or candidates > MOST_CANDIDATES or candidates * parts * ROWS_A_CANDIDATE > rows_there:
            everything = _rows(db, known, EXACT, request, target, condition)[0]
            return _Found(everything, exact=True, use=now, candidates_that_met=len(rows))


def _more_candidates(candidates: int, met: int, limit: int) -> int:
    """At least twice as many; four times if none met the condition; else half more than their fraction suggests."""
    return max(2 * candidates, 4 * candidates if not met else 3 * candidates * limit // (2 * met))


def _rows(
    db: Database,
    known: Known,
    method: Method,
    request: SearchRequest,
    target: npt.NDArray[np.float32],
    condition: Condition | None,
    extent: Extent = ALL,
    *,
    count: bool = False,
) -> tuple[list[Sequence[Any]], Use | None]:
    """The rows of one statement, and its counters if they were asked for and are available."""
    statement = method.statement(db, request, target, condition, extent)
    if count and known.counts and db.settings.cluster is None:
        with_counters = counting(statement)
        try:
            return counted(db.rows(with_counters.sql, settings=with_counters.settings, text_as_bytes=True))
        except ServerRefusedError as error:
            if "system.processes" not in error.found:
                raise
            known.counts = False
    return db.rows(statement.sql, settings=statement.settings, text_as_bytes=True), None


def _row_count(db: Database, request: SearchRequest) -> int:
    (count,) = db.one(f"SELECT count() FROM {db.table}{where_sql(request)}")
    return int(count)


def vector_of(db: Database, row_id: int, by: By) -> npt.NDArray[np.float32]:
    """The stored vector of a row, (dimension,), read only from its shard's partition.

    Raises `SearchError` when there is no such row, `TableError` when there is no table.
    """
    shard = row_id // ID_STRIDE
    rows: list[Sequence[Any]] = []
    if 0 <= shard < 1 << 16:
        sql = f"SELECT {by}_embedding FROM {db.table} WHERE shard = {shard} AND id = {{id:Int64}}"
        try:
            rows = db.rows(sql, parameters={"id": row_id})
        except TableError:
            require_table(db)
            raise
    if not rows:
        raise SearchError(f"id {row_id}", found="no row", expected=f"an id of {db.subject}, such as a search prints")
    return np.asarray(rows[0][0], dtype=np.float32)


def search_statement(db: Database, request: SearchRequest, vector: npt.NDArray[np.float32]) -> Statement:
    """The statement of a search without a condition for a vector, (dimension,), of length 1."""
    if not method_of(request).exact:
        request = _with_cosine_distances(request, known_of(db).graph_facts(lambda: graph_facts(db)))
    return method_of(request).statement(db, replace(request, where=None), vector)


def typed_row(row: Sequence[Any]) -> tuple[float, str, str, int, int, str]:
    """A row of an answer in Python's types: distance, caption, url, shard, id and flag."""
    distance, caption, url, shard, row_id, nsfw = row
    return float(distance), answer_text(caption), answer_text(url), int(shard), int(row_id), answer_text(nsfw)


def answer_text(value: str | bytes) -> str:
    """A text of an answer. Captions may hold bytes that are not UTF-8; these become replacement characters."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
