"""Nearest neighbours by SQL, exact or by the index. How good the index is, is measured in recall/."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets.dataset import Dataset
from laion_assets.errors import SearchError, TableError
from laion_assets.search.condition import DISTANCE, check_condition
from laion_assets.table.connect import Database
from laion_assets.table.schema import require_table
from laion_assets.table.vectors import By, vector_sql

MAX_LIMIT = 1000
"""max_limit_for_vector_search_queries: beyond it ClickHouse scans everything and does not say so."""

EXACT_SETTINGS: dict[str, object] = {"use_skip_indexes": 0}

FEW_ROWS_SETTINGS: dict[str, object] = {"query_plan_optimize_lazy_materialization": 0}
"""Where the index names the rows of the answer and no others, a second read for their captions and urls is dear: 5.4 ms
of CPU time a search, 4.7 without (benchmarks/query_cost.py)."""


@dataclass(frozen=True)
class Neighbour:
    """One answer: its place from 1, cosine distance, and the row."""

    rank: int
    distance: float
    caption: str
    url: str
    shard: int
    id: int
    nsfw: str


@dataclass(frozen=True)
class SearchResult:
    """The answers, which way they were found, and the seconds that the query took.

    `too_few` is how many rows of the index's candidates met the condition, where these were too few and all rows were
    searched instead (`exact` is then true); else None.
    """

    neighbours: list[Neighbour]
    by: By
    exact: bool
    seconds: float
    too_few: int | None = None


@dataclass(frozen=True)
class SearchRequest:
    """What is asked besides the vector: `where` is a SQL condition over columns, `shards` prunes partitions."""

    by: By = "image"
    limit: int = 10
    exact: bool = False
    where: str | None = None
    shards: tuple[int, ...] | None = None
    settings: tuple[tuple[str, object], ...] = ()


def search(db: Database, vector: npt.ArrayLike, request: SearchRequest) -> SearchResult:
    """The rows nearest to `vector`, (dimension,), by cosine distance.

    With a condition the index's candidates are the 1,000 nearest rows of each part; where fewer than `limit` of them
    meet it, all rows are searched.

    Raises `SearchError` for a vector, limit or condition that cannot be, `TableError` when there is no table.
    """
    target = checked_vector(vector, db.settings.dataset.dimension)
    check_request(request, db.settings.dataset)
    if request.where:
        check_condition(db, request.where)
    started = time.perf_counter()
    try:
        rows = _rows(db, request, target)
        too_few = len(rows) if request.where and not request.exact and len(rows) < request.limit else None
        if too_few is not None:
            request = replace(request, exact=True)
            rows = _rows(db, request, target)
    except TableError:
        # Asked only now: three more queries before each search took as long as the search itself.
        require_table(db)
        raise
    seconds = time.perf_counter() - started
    found = [Neighbour(rank, *_typed(row)) for rank, row in enumerate(rows, start=1)]
    return SearchResult(found, request.by, request.exact, seconds, too_few)


def _rows(db: Database, request: SearchRequest, target: npt.NDArray[np.float32]) -> list[Sequence[Any]]:
    return db.rows(search_sql(db, request, target), settings=search_settings(request), text_as_bytes=True)


def search_sql(db: Database, request: SearchRequest, vector: npt.NDArray[np.float32]) -> str:
    """The statement of a search for a vector, (dimension,)."""
    distance = f"cosineDistance({request.by}_embedding, {vector_sql(vector)})"
    return (
        f"SELECT {distance} AS {DISTANCE}, caption, url, shard, id, NSFW FROM {db.table}{_conditions(request)} "
        f"ORDER BY {DISTANCE} LIMIT {request.limit}"
    )


def search_settings(request: SearchRequest) -> dict[str, object]:
    """ClickHouse's settings for a search: read-only, the request's own, and without the index where it is exact.

    ClickHouse applies a condition to what the index found (post-filtering), so that with one every candidate that it
    allows is asked for.
    """
    own = dict(request.settings)
    if request.where and not request.exact:
        own["vector_search_index_fetch_multiplier"] = float(MAX_LIMIT // request.limit)
    few_rows = not request.exact and not own.get("vector_search_with_rescoring")
    return {
        "readonly": 2,
        **(FEW_ROWS_SETTINGS if few_rows else {}),
        **own,
        **(EXACT_SETTINGS if request.exact else {}),
    }


def vector_of(db: Database, row_id: int, by: By) -> npt.NDArray[np.float32]:
    """The stored vector of a row, (dimension,). Raises `SearchError` when there is no such row."""
    require_table(db)
    rows = db.rows(f"SELECT {by}_embedding FROM {db.table} WHERE id = {{id:Int64}}", parameters={"id": row_id})
    if not rows:
        raise SearchError(f"id {row_id}", found="no row", expected=f"an id of {db.subject}, such as a search prints")
    return np.asarray(rows[0][0], dtype=np.float32)


def checked_vector(vector: npt.ArrayLike, dimension: int) -> npt.NDArray[np.float32]:
    """The vector as float32 (dimension,). Raises `SearchError` for another shape, zeros, NaN or infinity."""
    try:
        target = real_numbers(np.asarray(vector))
    except (TypeError, ValueError, OverflowError) as error:
        found = " ".join(str(error).split())[:200]
        raise SearchError("query vector", found=found, expected=f"{dimension} numbers") from error
    if target.shape not in ((dimension,), (1, dimension)):
        raise SearchError("query vector", found=f"shape {target.shape}", expected=f"({dimension},)")
    target = target.reshape(dimension)
    if not target.any():
        raise SearchError("query vector", found="only zeros", expected="a direction: cosine distance needs a length")
    return target


def real_numbers(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The same numbers as float32. Raises `ValueError` for what are no real numbers, or none that float32 holds."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"values of type {array.dtype}, not real numbers")
    with np.errstate(over="ignore"):
        vector = array.astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("NaN or infinity in it, or a number beyond float32")
    return vector


def check_request(request: SearchRequest, dataset: Dataset) -> None:
    """Raises `SearchError` for a limit that cannot be, or vectors that the dataset does not have."""
    if type(request.limit) is not int or not 1 <= request.limit <= MAX_LIMIT:
        raise SearchError(
            "limit",
            found=f"{request.limit:,}" if type(request.limit) is int else f"{request.limit!r}",
            expected=f"1 to {MAX_LIMIT:,}",
            advice="ClickHouse answers larger ones by scanning everything",
        )
    if request.by == "text" and not dataset.has_text:
        raise SearchError(f"dataset {dataset.name}", found="no text embeddings", expected="by image")


def _conditions(request: SearchRequest) -> str:
    conditions: list[str] = []
    if request.shards is not None:
        conditions.append(f"shard IN ({', '.join(str(int(shard)) for shard in request.shards) or 'NULL'})")
    if request.where:
        # The line break ends a comment that the condition may end with.
        conditions.append(f"({request.where}\n)")
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _typed(row: Sequence[Any]) -> tuple[float, str, str, int, int, str]:
    distance, caption, url, shard, row_id, nsfw = row
    return float(distance), _text(caption), _text(url), int(shard), int(row_id), _text(nsfw)


def _text(value: str | bytes) -> str:
    """Captions may hold bytes that are not UTF-8; they are shown with replacement marks."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def checked_by(by: str) -> By:
    """`by` as typed. Raises `SearchError` unless it is image or text."""
    if by == "image":
        return "image"
    if by == "text":
        return "text"
    raise SearchError("by", found=f"{by!r}", expected="image or text")
