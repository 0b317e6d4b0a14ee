"""True neighbours of query sets, by exact search of the same rows, kept in the store. It judges no index."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from laion_assets.dataset import ID_STRIDE
from laion_assets.recall.queries import QuerySet
from laion_assets.shard.files import replacing, sweep
from laion_assets.shard.npz import UNREADABLE
from laion_assets.table.database import Database
from laion_assets.table.parts import partition_contents
from laion_assets.table.vectors import Block, By, Ids, Vectors, stream_vectors

Distances = npt.NDArray[np.float64]

COMPARED_AT_ONCE = 1 << 24
"""Similarities that are in memory at a time, 67 MB of float32: those of 1,024 queries and a block of 16,384 rows."""


@dataclass(frozen=True)
class TrueNeighbours:
    """The k nearest rows of each query, nearest first: ids int64 (q, k) and cosine distances float64 (q, k).

    If the table has fewer rows than k, the other places have id -1 and distance infinity. The distances come from
    float32 matrix products: for vectors of length 1 they are within 1e-6 of those in float64.
    """

    ids: Ids
    distances: Distances


@dataclass(frozen=True)
class ExactAnswers:
    """True neighbours of each query set, in order; the seconds that they took, and whether they are from the store."""

    neighbours: list[TrueNeighbours]
    seconds: float
    from_store: bool


def true_neighbours(
    db: Database, sets: list[QuerySet], k: int, folder: Path | None, shards: Collection[int] | None = None
) -> ExactAnswers:
    """The true neighbours of every set; each column is read once, whatever the number of sets. With `shards`, only rows
    of these partitions are neighbours. Raises `TableError`.

    They are kept in `folder`, if it is given, under a name that depends on the table, its loaded partitions and the
    queries. The name changes when a partition is loaded again. It does not change with a mutation that changes vectors
    in place, since building an index looks the same.
    """
    started = time.perf_counter()
    path = None if folder is None else folder / f"exact_{_key(db, sets, k, shards)}.npz"
    kept = None if path is None else _read(path, [len(queries) for queries in sets], k)
    if kept is not None:
        return ExactAnswers(kept, time.perf_counter() - started, from_store=True)
    neighbours: dict[int, TrueNeighbours] = {}
    columns: tuple[By, ...] = ("image", "text")
    for target in columns:
        places = [place for place, queries in enumerate(sets) if queries.kind.target == target]
        if not places:
            continue
        answers = nearest_by_blocks(
            db,
            target,
            np.concatenate([sets[place].vectors for place in places]),
            np.concatenate([sets[place].own_rows for place in places]),
            k,
            np.concatenate([sets[place].own_shards for place in places]),
            shards,
        )
        bounds = np.cumsum([0, *(len(sets[place]) for place in places)])
        for place, start, end in zip(places, bounds[:-1], bounds[1:], strict=True):
            neighbours[place] = TrueNeighbours(answers.ids[start:end], answers.distances[start:end])
    found = [neighbours[place] for place in range(len(sets))]
    if path is not None:
        _write(path, found)
    return ExactAnswers(found, time.perf_counter() - started, from_store=False)


def nearest_by_blocks(
    db: Database,
    by: By,
    queries: Vectors,
    own: Ids,
    k: int,
    own_shards: Ids | None = None,
    shards: Collection[int] | None = None,
) -> TrueNeighbours:
    """The k nearest rows of each query, (q, d), by matrix products over blocks of the table.

    The rows `own`, (q,), and the rows of the partitions `own_shards`, (q,), are left out of their query's answers.
    With `shards`, only these partitions are read.

    Besides one block, the queries and the answers, memory is that of `COMPARED_AT_ONCE` similarities: at most 0.2 GB,
    whatever the number of queries.

    This is the fastest of three ways (benchmarks/exact_neighbours.py). A SQL query for each query, and one statement
    for all, read or rank every vector once for each query. Here a block is read once and multiplied with all queries at
    once.
    """
    unit = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    best = _Best(len(queries), k)
    for block in stream_vectors(db, by, shards):
        best.add(block, unit, own, own_shards)
    return best.sorted()


class _Best:
    """The k most similar rows of each query so far. Only rows that are nearer than a query's k-th are sorted again."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._similar = np.full((queries, k), -np.inf, dtype=np.float32)
        self._ids = np.full((queries, k), -1, dtype=np.int64)

    def add(self, block: Block, unit: Vectors, own: Ids, own_shards: Ids | None) -> None:
        """Compares a block of rows with all queries, some queries at a time."""
        norms = np.sqrt(np.einsum("ij,ij->i", block.vectors, block.vectors))
        at_once = max(1, COMPARED_AT_ONCE // len(block.ids))
        for start in range(0, len(unit), at_once):
            some = slice(start, start + at_once)
            shards = None if own_shards is None else own_shards[some]
            # No name here, which would keep these similarities while the next ones are computed.
            self._keep_best(start, _similar(block, norms, unit[some], own[some], shards), block.ids)

    def _keep_best(self, start: int, similar: Vectors, block_ids: Ids) -> None:
        """Keeps the best rows of a block for the queries from `start` on, by their similarities (queries, rows)."""
        better = similar > self._similar[start : start + len(similar)].min(axis=1, keepdims=True)
        for place in np.flatnonzero(better.any(axis=1)):
            rows, query = np.flatnonzero(better[place]), start + place
            values = np.concatenate([self._similar[query], similar[place, rows]])
            ids = np.concatenate([self._ids[query], block_ids[rows]])
            kept = np.argpartition(-values, self._k - 1)[: self._k]
            self._similar[query], self._ids[query] = values[kept], ids[kept]

    def sorted(self) -> TrueNeighbours:
        order = np.argsort(-self._similar, axis=1, kind="stable")
        similar = np.take_along_axis(self._similar, order, axis=1).astype(np.float64)
        return TrueNeighbours(np.take_along_axis(self._ids, order, axis=1), 1 - similar)


def _similar(block: Block, norms: Vectors, unit: Vectors, own: Ids, own_shards: Ids | None) -> Vectors:
    """Cosine similarities, float32 (queries, rows); minus infinity for rows that are no answer of a query."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        similar: Vectors = unit @ block.vectors.T
        similar /= norms
    # Bad vectors have no distance, so they are nobody's neighbours.
    np.nan_to_num(similar, copy=False, nan=-np.inf, posinf=-np.inf, neginf=-np.inf)
    at = np.clip(np.searchsorted(block.ids, own), 0, len(block.ids) - 1)
    here = np.flatnonzero(block.ids[at] == own)
    similar[here, at[here]] = -np.inf
    if own_shards is not None:  # all rows of a block are of one partition
        similar[own_shards == block.ids[0] // ID_STRIDE] = -np.inf
    return similar


def cosine_distances(queries: Vectors, vectors: Vectors) -> Distances:
    """Cosine distances in float64, (n,), of one query, (d,), or of n queries, (n, d), to n vectors, (n, d).

    NaN for vectors of length 0.
    """
    a, b = queries.astype(np.float64), vectors.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        products = np.einsum("...d,...d->...", a, b)
        distances: Distances = 1 - products / (np.linalg.norm(b, axis=-1) * np.linalg.norm(a, axis=-1))
    return distances


def _key(db: Database, sets: list[QuerySet], k: int, shards: Collection[int] | None) -> str:
    contents = [one for shard, one in partition_contents(db).items() if shards is None or shard in shards]
    digest = hashlib.sha256(repr((db.database, db.settings.table, k, contents)).encode())
    for queries in sets:
        digest.update(f"{queries.kind.name} {queries.left_out}".encode())
        digest.update(queries.ids.tobytes())
        digest.update(queries.vectors.tobytes())
    return digest.hexdigest()[:24]


def _read(path: Path, queries: list[int], k: int) -> list[TrueNeighbours] | None:
    """The kept neighbours of sets of so many queries; None if there is no file, or if it is damaged in any way."""
    try:
        with zipfile.ZipFile(path) as archive:
            # numpy reads an array's header before the checksum of the array is known.
            if archive.testzip() is not None:
                return None
        with np.load(path, allow_pickle=False) as kept:
            found = [TrueNeighbours(kept[f"ids_{place}"], kept[f"distances_{place}"]) for place in range(len(queries))]
    except (*UNREADABLE, KeyError):
        return None
    whole = all(one.ids.shape == one.distances.shape == (count, k) for one, count in zip(found, queries, strict=True))
    return found if whole else None


def _write(path: Path, neighbours: list[TrueNeighbours]) -> None:
    arrays: dict[str, Ids | Distances] = {}
    for place, found in enumerate(neighbours):
        arrays |= {f"ids_{place}": found.ids, f"distances_{place}": found.distances}
    for old in path.parent.glob("exact_*.npz"):
        old.unlink(missing_ok=True)
    with replacing(path, subject="true neighbours") as temporary, temporary.open("wb") as file:
        sweep(path.parent)
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub wrongly types all keywords as its last one
