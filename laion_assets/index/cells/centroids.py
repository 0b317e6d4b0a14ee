"""Spherical k-means, and the nearest centroid of each vector in two levels, in memory. It uses no table."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from laion_assets.machine import available_cores

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Floats = npt.NDArray[np.float32]
Clusters = npt.NDArray[np.uint32]

BLOCK_ROWS = 8_192
"""Rows that one thread compares at a time: 17 MB of 512 float32, and four times that for their groups."""

SUMMED_ROWS = 8 * BLOCK_ROWS
"""Rows of a sample that are compared before their sums are added: 134 MB."""

ITERATIONS = 12
"""After 12 iterations from random rows, .95 of the neighbours of 200,000 sample rows were in clusters with 3.6 % of the
rows (images), and 7.0 % (texts asked of images). A tree whose nodes were clustered separately needed 6.9 and 7.9 %."""

GROUP_ITERATIONS = 6

GROUPS_SEARCHED = 4
"""Number of the √k groups of centroids whose members a vector is compared with. 87 % of 200,000 sample texts got the
nearest of 1,789 centroids, and queries needed 1.05 times the rows, in 15 core seconds a million. With 8 groups it was
97 %, in 26 core seconds."""

ROWS_A_CENTROID_LEAST, ROWS_A_CENTROID = 39, 64
"""With fewer than 39 training rows a centroid faiss warns (ClusteringParameters.min_points_per_centroid)."""

Trained = Callable[[int], None]
"""Called with the number of vectors that were compared since the last call."""


def clusters_for(rows: int) -> int:
    """How many clusters a table of `rows` rows has: 4·√rows, but 1 if that gives fewer than 39 rows a cluster.

    faiss's guidelines for choosing an index name 4·√n to 16·√n for an inverted file. The lowest number keeps clusters
    large: each cluster costs at least one granule of every part. Below 24,336 rows reading all codes takes only 10 ms.
    """
    wanted = round(4 * math.sqrt(rows))
    return wanted if rows >= ROWS_A_CENTROID_LEAST * wanted > 0 else 1


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """The vectors, (n, d), scaled to length 1, as float32; zero vectors stay zero."""
    floats = vectors.astype(np.float32)
    floats /= np.maximum(np.linalg.norm(floats, axis=1, keepdims=True), 1e-30)
    return floats


@contextmanager
def one_thread_a_product() -> Iterator[None]:
    """Lets the matrix library use one thread. Threads of its own spin between products: they took 154 core seconds, one
    thread took 26 (a million vectors, two busy cores)."""
    with _matrix_library().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _matrix_library() -> ThreadpoolController:
    """Looks for the library once: that takes 10 ms, and a training of 200 centroids limits its threads 30 times."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@dataclass(frozen=True)
class Centroids:
    """k centroids of length 1, float32 (k, d), with groups of them that are compared first.

    `members` are the centroids in the order of their groups, float32 (k, d); group g is rows `bounds[g]` to `bounds[g +
    1]`, whose numbers are `numbers`; `groups` (g, d) are the groups' own centroids.
    """

    vectors: Floats
    groups: Floats
    members: Floats
    numbers: Clusters
    bounds: npt.NDArray[np.int64]

    @classmethod
    def of(cls, vectors: Floats) -> Centroids:
        """Finds √k groups by k-means among the centroids; the same centroids give the same groups."""
        count = max(1, round(math.sqrt(len(vectors))))
        generator = np.random.default_rng(0)
        groups = vectors[generator.choice(len(vectors), count, replace=False)]
        with one_thread_a_product():
            for _ in range(GROUP_ITERATIONS if count > 1 else 0):
                sums, rows = _sums(vectors, (vectors @ groups.T).argmax(axis=1), count)
                groups = np.where(rows[:, None] > 0, unit(sums), groups)
            own = (vectors @ groups.T).argmax(axis=1)
        numbers = np.argsort(own, kind="stable").astype(np.uint32)
        bounds = np.searchsorted(own[numbers], np.arange(count + 1))
        return cls(vectors, groups, vectors[numbers], numbers, bounds)

    def __len__(self) -> int:
        return len(self.vectors)

    def nearest(self, vectors: npt.NDArray[np.floating]) -> tuple[Clusters, Floats]:
        """The number of each vector's nearest centroid, uint32 (n,), and their cosine similarity, float32 (n,).

        Only the members of the nearest groups are compared, so that the cost grows with √k. Blocks are compared in
        parallel, each by one thread.
        """
        if not len(vectors):
            return np.empty(0, np.uint32), np.empty(0, np.float32)
        with one_thread_a_product(), ThreadPoolExecutor(available_cores()) as beside:
            blocks = (vectors[start : start + BLOCK_ROWS] for start in _starts(len(vectors)))
            found = list(beside.map(lambda block: self._nearest(unit(block)), blocks))
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def _nearest(self, vectors: Floats) -> tuple[Clusters, Floats]:
        clusters = np.zeros(len(vectors), np.uint32)
        similar = np.full(len(vectors), -np.inf, np.float32)
        count = len(self.groups)
        near = np.arange(count)[None].repeat(len(vectors), 0)
        if count > GROUPS_SEARCHED:
            near = np.argpartition(-(vectors @ self.groups.T), GROUPS_SEARCHED - 1, axis=1)[:, :GROUPS_SEARCHED]
        rows = np.argsort(near, axis=None, kind="stable")
        ends = np.searchsorted(near.ravel()[rows], np.arange(count + 1))
        rows //= near.shape[1]
        for group in range(count):
            asked = rows[ends[group] : ends[group + 1]]
            first, last = self.bounds[group], self.bounds[group + 1]
            if not len(asked) or first == last:
                continue
            products = vectors[asked] @ self.members[first:last].T
            best = products.argmax(axis=1)
            values = products[np.arange(len(asked)), best]
            better = values > similar[asked]
            clusters[asked[better]] = self.numbers[first + best[better]]
            similar[asked[better]] = values[better]
        return clusters, similar


def train(sample: npt.NDArray[np.floating], count: int, *, seed: int, trained: Trained | None = None) -> Centroids:
    """`count` centroids of a sample, (n, d) of at least `count` rows; the same sample and seed give the same centroids.

    Lloyd's iterations from random rows, with means scaled to length 1 (spherical k-means). An empty cluster starts
    again at a random row.
    """
    generator = np.random.default_rng(seed)
    centroids = Centroids.of(unit(sample[np.sort(generator.choice(len(sample), count, replace=False))]))
    for _ in range(ITERATIONS if count > 1 else 1):
        sums, rows = np.zeros(centroids.vectors.shape, np.float32), np.zeros(count, np.int64)
        for start in range(0, len(sample), SUMMED_ROWS):
            block = unit(sample[start : start + SUMMED_ROWS])
            clusters, _ = centroids.nearest(block)
            more, members = _sums(block, clusters, count)
            sums, rows = sums + more, rows + members
            if trained is not None:
                trained(len(block))
        empty = np.flatnonzero((rows == 0) | (np.linalg.norm(sums, axis=1) == 0))
        sums[empty] = unit(sample[np.sort(generator.choice(len(sample), len(empty), replace=False))])
        centroids = Centroids.of(unit(sums))
    return centroids


def _starts(rows: int) -> Iterator[int]:
    yield from range(0, rows, BLOCK_ROWS)


def _sums(vectors: Floats, clusters: npt.NDArray[np.integer], count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The sum of each cluster's vectors, (count, d), and how many they are, (count,)."""
    order = np.argsort(clusters, kind="stable")
    rows = np.bincount(clusters, minlength=count)
    there = np.flatnonzero(rows)
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    if len(there):
        sums[there] = np.add.reduceat(vectors[order], np.searchsorted(clusters[order], there), axis=0)
    return sums, rows
