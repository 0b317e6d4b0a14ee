"""Vectors to search, queries that are not among them, and the true neighbours that answers are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.real_vectors import Floats, glove_vectors, minilm_vectors
from benchmarks.search_data import SHARD
from benchmarks.search_engines import K
from laion_assets.sample.shards import write_sample_shard

TOLERANCE = 2e-6
"""A found row's cosine may be lower than that of the tenth true neighbour by this much, so that ties count as found."""

REAL_ROWS = 400_000
BLOCK = 100
"""Queries that are compared with all vectors at once. This takes 160 MB for 200,000 vectors, with the sort."""


@dataclass
class QueriedVectors:
    """Vectors to index, (n, d). For each kind, the queries, (q, d), and the cosine of each query's tenth neighbour,
    (q,)."""

    name: str
    vectors: Floats
    queries: dict[str, Floats]
    tenth: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, queries in self.queries.items():
            blocks = [queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK)]
            near = [np.argpartition(-(block @ self.vectors.T), 4 * K, axis=1)[:, : 4 * K] for block in blocks]
            cosines = [self.cosines(kind, number, rows) for number, rows in enumerate(np.concatenate(near))]
            self.tenth[kind] = np.array([np.sort(each)[-K] for each in cosines])

    def first(self, queries: int) -> QueriedVectors:
        """The same vectors with the first `queries` queries of each kind."""
        return replace(self, queries={kind: asked[:queries] for kind, asked in self.queries.items()})

    def cosines(self, kind: str, number: int, rows: Sequence[int] | npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Cosines between one query and some rows."""
        query = self.queries[kind][number].astype(np.float64)
        chosen = self.vectors[np.asarray(rows, dtype=np.intp)].astype(np.float64)
        cosines: npt.NDArray[np.float64] = chosen @ query / np.linalg.norm(chosen, axis=1) / np.linalg.norm(query)
        return cosines

    def recall(self, kind: str, found: list[list[int]]) -> float:
        """Mean recall@10 of the answers to the queries of a kind, in their order."""
        near = [
            (
                self.cosines(kind, number, [row for row in rows if row >= 0]) >= self.tenth[kind][number] - TOLERANCE
            ).sum()
            for number, rows in enumerate(found)
        ]
        return float(np.mean(near)) / K


def sample_vectors(folder: Path, rows: int, queries: int) -> QueriedVectors:
    """Image vectors of a sample shard. The image and text vectors of the shard's last rows are the queries. The shard's
    files in `folder` are removed."""
    image, text, metadata = write_sample_shard(folder, SHARD, rows + queries)
    images, texts = (_unit(np.load(path)) for path in (image, text))
    for path in (image, text, metadata):
        path.unlink()
    kinds = {"image→image": images[rows:], "text→image": texts[rows:]}
    return QueriedVectors(f"{rows:,} sample vectors of 512 dimensions", images[:rows], kinds)


def real_vectors(name: str, captions: Path | None, queries: int) -> QueriedVectors:
    """The vectors of `glove` or `minilm`, without random ones, which are the queries. Raises `AbsentError`."""
    vectors = glove_vectors(REAL_ROWS) if name == "glove" else minilm_vectors(captions, REAL_ROWS)
    order = np.random.default_rng(0).permutation(len(vectors))
    kept = np.ascontiguousarray(vectors[np.sort(order[queries:])])
    name = f"{name}, {len(kept):,} real vectors of {vectors.shape[1]} dimensions"
    return QueriedVectors(name, kept, {"not in the table": vectors[order[:queries]]})


def _unit(vectors: npt.NDArray[np.floating]) -> Floats:
    wide = vectors.astype(np.float32)
    unit: Floats = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit
