"""The request of a search and its result. It makes no statement."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal, get_args

from laion_assets.dataset import Dataset
from laion_assets.errors import SearchError
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.shard_numbers import MAX_SHARDS
from laion_assets.table.vectors import By
from laion_assets.words import counted

if TYPE_CHECKING:
    import polars as pl

MethodName = Literal["exact", "graph", "codes", "cells"]
"""The methods: compare every row, HNSW graphs, codes of all rows, codes of the nearest clusters."""

METHODS: tuple[MethodName, ...] = get_args(MethodName)

MAX_LIMIT = 10_000
"""Most answers of a search. ClickHouse's own limit of 1,000 (max_limit_for_vector_search_queries) is a setting: with a
higher value, a search for 3,000 of 12,000 rows in two parts found .998 of them with both graphs."""


@dataclass(frozen=True)
class Neighbour:
    """One answer: its rank from 1, its cosine distance, and the row."""

    rank: int
    distance: float
    caption: str
    url: str
    shard: int
    id: int
    nsfw: str


@dataclass(frozen=True)
class SearchResult:
    """The answers, how they were found, and the seconds that the query took.

    `exact` is whether every row was compared: because that was asked for, because too few of the index's candidates met
    the condition, or because there is no graph. `candidates_that_met` is their number if too few met the condition.

    `graphs` and `parts` are how many graphs ClickHouse searched, and how many parts it read, by its own counters. Parts
    without a graph were scanned. They are None if nothing was counted: over a connection that stays open each kind of
    search is counted once in ten seconds, and in a cluster never, since the counters are those of other servers.

    `clusters`, for a search by cells or codes, is the number of probed clusters and of all clusters. `scanned` is the
    number of shards that were not in the cells and had every row compared.

    `with_deleted_rows` is the number of shards that had every row compared because a DELETE removed rows that their
    graphs still have. `hidden_rows` is whether every row was compared because some are hidden from this user.
    """

    neighbours: list[Neighbour]
    by: By
    exact: bool
    seconds: float
    candidates_that_met: int | None = None
    graphs: int | None = None
    parts: int | None = None
    clusters: tuple[int, int] | None = None
    scanned: int = 0
    with_deleted_rows: int = 0
    hidden_rows: bool = False

    @property
    def way(self) -> str:
        """How the answers were found, in words."""
        if self.exact:
            return f"every row compared{self._why_every_row()}"
        if self.clusters is not None:
            probed, all_clusters = self.clusters
            of = f"{probed:,} of {all_clusters:,} clusters" if probed < all_clusters else "codes of all rows"
            more = f", and {counted(self.scanned, 'shard')} not in the cells compared whole" if self.scanned else ""
            return f"by {'cells' if probed < all_clusters else 'codes'}: {of}{more}"
        compared = f", and {self._deleted} compared whole" if self.with_deleted_rows else ""
        if self.graphs is None or self.parts is None:
            return f"by the index{compared}"
        scanned = self.parts - self.graphs
        more = f", and {counted(scanned, 'part')} without a graph scanned" if scanned > 0 else ""
        return f"by the index: {counted(self.graphs, 'graph')} searched{more}{compared}"

    @property
    def _deleted(self) -> str:
        return f"{counted(self.with_deleted_rows, 'shard')} with deleted or updated rows that graphs still have"

    def _why_every_row(self) -> str:
        if self.hidden_rows:
            return ": a row policy or additional_table_filters hides rows from this user"
        if self.candidates_that_met is not None:
            return f": of the index's candidates {self.candidates_that_met:,} met the condition"
        if self.with_deleted_rows:
            return f": {self._deleted}"
        return f": no graph in {counted(self.parts, 'part')}" if self.parts else ""

    def frame(self) -> pl.DataFrame:
        """The neighbours as a polars frame, one row each. An empty frame has the columns of `laion_assets.search`,
        too."""
        import polars as pl

        columns: dict[str, type[pl.DataType]] = {
            "rank": pl.Int64,
            "distance": pl.Float64,
            "caption": pl.String,
            "url": pl.String,
            "shard": pl.Int64,
            "id": pl.Int64,
            "nsfw": pl.String,
        }
        return pl.DataFrame([asdict(neighbour) for neighbour in self.neighbours], schema=columns)


@dataclass(frozen=True)
class SearchRequest:
    """What is asked, without the vector: `where` is a SQL condition over columns, `shards` limits the partitions.

    `method` is the method that is asked for; None means the cheapest that meets the recall target. `exact` is the same
    as the method exact. `cells` says how much a search by cells or codes reads; None means the default for the table's
    size. With `ids_alone` captions, URLs and flags of the answer are empty. `without` are shards that are left out,
    since they are searched in another way.
    """

    by: By = "image"
    limit: int = 10
    exact: bool = False
    where: str | None = None
    shards: tuple[int, ...] | None = None
    settings: tuple[tuple[str, object], ...] = ()
    ids_alone: bool = False
    method: MethodName | None = None
    cells: CellsSettings | None = None
    without: tuple[int, ...] = ()


def check_request(request: SearchRequest, dataset: Dataset) -> None:
    """Raises `SearchError` for an invalid limit, condition or shard, or for vectors that the dataset does not have."""
    if type(request.limit) is not int or not 1 <= request.limit <= MAX_LIMIT:
        found = f"{request.limit:,}" if type(request.limit) is int else f"{request.limit!r}"
        raise SearchError("limit", found=found, expected=f"1 to {MAX_LIMIT:,}")
    if request.where is not None and not isinstance(request.where, str):
        raise SearchError("where", found=f"{type(request.where).__name__}", expected="a text: a condition of SQL")
    for shard in request.shards or ():
        if isinstance(shard, bool) or not isinstance(shard, Integral) or not 0 <= shard < MAX_SHARDS:
            found = f"{shard!r}"[:40]
            raise SearchError("shards", found=found, expected=f"whole numbers from 0 to {MAX_SHARDS - 1:,}")
    if request.by == "text" and not dataset.has_text:
        raise SearchError(f"dataset {dataset.name}", found="no text embeddings", expected="by image")


def checked_by(by: str) -> By:
    """`by` with its type. Raises `SearchError` unless it is image or text."""
    if by == "image":
        return "image"
    if by == "text":
        return "text"
    raise SearchError("by", found=f"{by!r}", expected="image or text")


def checked_method(method: str | None, *, exact: bool = False) -> MethodName | None:
    """`method` with its type; `exact` asks for that method. Raises `SearchError` if it is unknown or another."""
    if method is None:
        return "exact" if exact else None
    for name in METHODS:
        if method == name:
            if exact and name != "exact":
                raise SearchError("search", found=f"exact and the method {name}", expected="one of them")
            return name
    raise SearchError("method", found=f"{method!r}", expected=", ".join(METHODS))
