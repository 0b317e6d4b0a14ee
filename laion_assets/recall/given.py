"""Queries whose neighbours others computed, as a kind of query, if those neighbours are the nearest by our distance."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from laion_assets.dataset import ID_STRIDE
from laion_assets.errors import LaionError, ShardFileError, first_line
from laion_assets.file_layout import Given
from laion_assets.recall.exact import Distances, TrueNeighbours, cosine_distances, true_neighbours
from laion_assets.recall.hits import TOLERANCE
from laion_assets.recall.queries import Kind, QuerySet
from laion_assets.shard.list_column import ListColumnReader, read_list_header
from laion_assets.source.given import fetch_given
from laion_assets.table.database import Database
from laion_assets.table.vectors import Ids, Vectors, ids_by, vectors_of

LEAST_NEIGHBOURS = 10
"""Number of a query's given neighbours that must be loaded, since recall@10 is measured."""

LEAST_AGREEMENT = 0.99
"""Fraction of the ten nearest given neighbours that must be as near as those of our exact search. Neighbours of another
table, or by another distance, agree less, and nothing can be measured with them."""

COMPARED_AT_ONCE = 1_000
"""Queries whose given neighbours are read at a time: 10,000 vectors, 31 MB of 768 dimensions."""

MOST_NEIGHBOURS = 100
MOST_QUERIES = 100_000


@dataclass(frozen=True)
class GivenQueries:
    """Queries, their true neighbours, and the origin of both in words.

    `truth` has the ids of the given neighbours that are loaded, and the distances of the neighbours that our exact
    search found: a wrong neighbour in a list does not change how near an answer must be.
    """

    queries: QuerySet
    truth: TrueNeighbours
    origin: str


def given_queries(
    db: Database, count: int, log: Callable[[str], None], shards: Collection[int] | None = None
) -> list[GivenQueries]:
    """Up to `count` of the queries that the dataset names under `[given]`; empty if it names none.

    The given neighbours were computed over a whole dataset. Those that are loaded are, in their order, the nearest of
    the loaded rows; with `shards`, those in these partitions. Queries with fewer than ten such neighbours are left out.
    If the queries cannot be asked, or if fewer than `LEAST_AGREEMENT` of the given neighbours are as near as those of
    our exact search, the reason is logged and the report is made without them. Raises `TableError`.
    """
    given = db.settings.dataset.given
    if given is None:
        return []
    try:
        if given.ids not in db.settings.extra_column_types:
            raise ShardFileError(
                "given queries",
                found=f"no column {given.ids} in the table",
                expected="this column, for example by LAION_EXTRA_COLUMNS",
            )
        queries_path, neighbours_path = fetch_given(db.settings, given, log)
        vectors = read_queries(queries_path, given, db.settings.dataset.dimension)
        neighbours = read_neighbours(neighbours_path, given, len(vectors))
    except LaionError as error:
        log(f"given queries are left out: {error}")
        return []
    ours = _our_ids(db, given, neighbours, shards)
    chosen = np.flatnonzero((ours >= 0).sum(axis=1) >= LEAST_NEIGHBOURS)[:count]
    if not len(chosen):
        log(f"given queries are left out: none has {LEAST_NEIGHBOURS} neighbours that are loaded")
        return []
    kind = Kind("image", "image", given=True)
    queries = QuerySet(kind, np.full(len(chosen), -1, np.int64), vectors[chosen])
    (exact,) = true_neighbours(db, [queries], MOST_NEIGHBOURS, None, shards).neighbours
    same = _agreement(db, queries.vectors, ours[chosen], exact.distances)
    if same < LEAST_AGREEMENT:
        log(
            f"given queries are left out: of the neighbours of {given.neighbours} {same:.4f} are as near as those of "
            f"our exact search, expected at least {LEAST_AGREEMENT:g}: their ids may be those of another column or "
            "release of the data, or their distance is another than the cosine distance"
        )
        return []
    said = f"{given.queries} with the neighbours of {given.neighbours}, of which our exact search finds {same:.4f}"
    log(f"{len(chosen)} given queries: {said}")
    return [GivenQueries(queries, TrueNeighbours(ours[chosen], exact.distances), said)]


def read_queries(path: Path, given: Given, dimension: int) -> Vectors:
    """The queries, float32 (q, d). Raises `ShardFileError`."""
    subject = f"given queries, {path.name}"
    header = read_list_header(path, given.queries_array, subject=subject, dimension=dimension, advice="")
    if not 0 < header.rows <= MOST_QUERIES:
        raise ShardFileError(subject, found=f"{header.rows:,} rows", expected=f"1 to {MOST_QUERIES:,}")
    vectors = np.empty((header.rows, dimension), np.float32)
    with ListColumnReader(path, given.queries_array, header, subject=subject, block_rows=header.rows) as reader:
        faults = reader.read_into(vectors)
    if faults is not None or not np.isfinite(vectors).all():
        raise ShardFileError(subject, found="queries that are no vectors", expected=f"{dimension} numbers in each")
    return vectors


def read_neighbours(path: Path, given: Given, queries: int) -> list[npt.NDArray[np.int64]]:
    """The ids of each query's neighbours in the given dataset, nearest first. Raises `ShardFileError`."""
    subject = f"given queries, {path.name}"
    try:
        column = pq.read_table(path, columns=[given.neighbours_array]).column(0)
        found = [np.asarray(row, np.int64) for row in column.to_pylist()]
    except (pa.ArrowException, OSError, IndexError, TypeError, ValueError) as error:
        raise ShardFileError(
            subject, found=first_line(error), expected=f"lists of ids in {given.neighbours_array}"
        ) from error
    if len(found) != queries:
        raise ShardFileError(subject, found=f"{len(found):,} rows", expected=f"{queries:,}, one for each query")
    return found


def _our_ids(
    db: Database, given: Given, neighbours: list[npt.NDArray[np.int64]], shards: Collection[int] | None
) -> Ids:
    """Our ids of the first loaded neighbours of each query, each once, (q, 100); -1 if there are no more."""
    known = ids_by(db, given.ids, np.unique(np.concatenate(neighbours)))
    if shards is not None:
        known = {theirs: own for theirs, own in known.items() if own // ID_STRIDE in shards}
    ours = np.full((len(neighbours), MOST_NEIGHBOURS), -1, np.int64)
    for query, theirs in enumerate(neighbours):
        loaded = [*dict.fromkeys(known[each] for each in theirs.tolist() if each in known)][:MOST_NEIGHBOURS]
        ours[query, : len(loaded)] = loaded
    return ours


def _agreement(db: Database, vectors: Vectors, ours: Ids, exact: Distances) -> float:
    """The fraction of the ten nearest given neighbours, (q, 100), that are as near as the ten rows that our exact
    search found, (q, 100): which of several rows with the same distance is given does not matter."""
    near = 0
    for start in range(0, len(vectors), COMPARED_AT_ONCE):
        some = ours[start : start + COMPARED_AT_ONCE, :LEAST_NEIGHBOURS]
        block = vectors_of(db, "image", some.reshape(-1))
        for query, ids in enumerate(some, start):
            distances = cosine_distances(vectors[query], block.vectors[np.searchsorted(block.ids, ids)])
            near += int((distances <= exact[query, LEAST_NEIGHBOURS - 1] + TOLERANCE).sum())
    return near / (len(vectors) * LEAST_NEIGHBOURS)
