"""Vector indexes with one interface: ours by SQL, and libraries. search.py compares them with other databases."""

from __future__ import annotations

import importlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import numpy.typing as npt

from benchmarks.search_data import Say, vector_table
from laion_assets.index.cover import index_sizes
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import SearchSettings
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.embedded import embedded_options

Floats = npt.NDArray[np.float32]
Setting = tuple[int, ...]
Searcher = Callable[[Floats], list[int]]
"""Returns the rows nearest to one vector, (dimension,), nearest first."""

K = 10
CORES = os.cpu_count() or 1
EF = tuple((ef,) for ef in (16, 32, 64, 128, 256, 512))


@dataclass
class Engine(ABC):
    """One index over given vectors of length 1, with row numbers as keys.

    `grid` has the search settings to try, and `words` names their numbers. `build` sets the CPU seconds of the index
    alone, and the bytes per vector that a search needs in memory (on disk, if a database reads its index from there).
    """

    name: str
    words: tuple[str, ...]
    grid: Sequence[Setting]
    package: str = ""
    core_seconds: float = 0.0
    bytes_a_vector: float = 0.0

    @abstractmethod
    def build(self, vectors: Floats, folder: Path, say: Say) -> None:
        """Indexes `vectors`, (n, d); it may write files into `folder`."""

    @abstractmethod
    def searcher(self, setting: Setting) -> AbstractContextManager[Searcher]:
        """A searcher for one thread with one setting. Only one setting can be in use at a time."""

    def close(self) -> None:  # noqa: B027
        """Releases memory and files. Libraries need nothing here, since Python releases their memory."""

    def text(self, setting: Setting) -> str:
        """A setting in words."""
        return ", ".join(f"{word} {number}" for word, number in zip(self.words, setting, strict=True) if number)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self.core_seconds = time.process_time() - started


@dataclass
class Ours(Engine):
    """The project's table and its search, which returns caption, url, id, NSFW and shard of each answer."""

    parameters: IndexParameters = field(default_factory=IndexParameters)
    _stack: ExitStack = field(default_factory=ExitStack)
    _db: Database | None = None

    def build(self, vectors: Floats, folder: Path, say: Say) -> None:
        """Loads a table and builds its index, with everything that the project does."""
        self._db = self._stack.enter_context(vector_table(folder / "ours", "ours", vectors, self.parameters, say))
        built = build_indexes(self._db, log=say)
        self.core_seconds = built.core_seconds or 0.0
        self.bytes_a_vector = index_sizes(built.cover).memory_bytes_a_vector

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """Opens a second connection, since two threads must not share one. It does not use `connect`, which would wait
        until the first connection is closed."""
        assert self._db is not None
        opened: Any = self._db.client
        ef, multiplier = setting
        pairs = (SearchSettings(ef, multiplier=multiplier) if multiplier else SearchSettings(ef)).pairs(K)
        request = SearchRequest(limit=K, settings=pairs)
        options = embedded_options(self._db.settings)
        client = clickhouse_connect.get_client(interface="chdb", path=opened.path, chdb_options=options)
        db = replace(self._db, client=client)
        try:
            yield lambda vector: [found.id for found in search(db, vector, request).neighbours]
        finally:
            client.close()

    def close(self) -> None:
        """Closes the engine."""
        self._stack.close()


@dataclass
class Usearch(Engine):
    """usearch, the library that ClickHouse uses for its index."""

    parameters: IndexParameters = field(default_factory=IndexParameters)
    _index: Any = None

    def build(self, vectors: Floats, _folder: Path, _say: Say) -> None:
        """Builds as ClickHouse does: M is `connectivity`, and there is no table of keys."""
        self._index = importlib.import_module("usearch.index").Index(
            ndim=vectors.shape[1],
            metric="cos",
            dtype=self.parameters.quantization,
            connectivity=self.parameters.m,
            expansion_add=self.parameters.ef_construction,
            enable_key_lookups=False,
        )
        with self._timed():
            self._index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=CORES, copy=True)
        self.bytes_a_vector = self._index.serialized_length / len(vectors)

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """One query a call."""
        index = self._index
        index.expansion_search = setting[0]
        yield lambda vector: index.search(vector, K, threads=1).keys.tolist()


@dataclass
class Hnswlib(Engine):
    """The reference implementation of HNSW, float32."""

    parameters: IndexParameters = field(default_factory=IndexParameters)
    _index: Any = None

    def build(self, vectors: Floats, folder: Path, _say: Say) -> None:
        """Vectors have length 1, so the inner product ranks like the cosine."""
        self._index = importlib.import_module("hnswlib").Index("ip", vectors.shape[1])
        self._index.init_index(len(vectors), self.parameters.m, self.parameters.ef_construction)
        with self._timed():
            self._index.add_items(vectors, num_threads=CORES)
        path = folder / "hnswlib.bin"
        self._index.save_index(str(path))
        self.bytes_a_vector = path.stat().st_size / len(vectors)
        path.unlink()

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """One query a call."""
        index = self._index
        index.set_ef(setting[0])
        yield lambda vector: index.knn_query(vector, K, num_threads=1)[0][0].tolist()


@dataclass
class Faiss(Engine):
    """faiss. `key` is the index's name for faiss's factory."""

    key: str = ""
    ef_construction: int = 0
    _index: Any = None

    def build(self, vectors: Floats, _folder: Path, _say: Say) -> None:
        """Trains the index if it must be trained, and adds the vectors."""
        faiss = importlib.import_module("faiss")
        faiss.omp_set_num_threads(CORES)
        self._index = faiss.index_factory(vectors.shape[1], self.key, faiss.METRIC_INNER_PRODUCT)
        if self.ef_construction:
            self._index.hnsw.efConstruction = self.ef_construction
        with self._timed():
            self._index.train(vectors)
            self._index.add(vectors)
        self.bytes_a_vector = len(faiss.serialize_index(self._index)) / len(vectors)

    @contextmanager
    def searcher(self, setting: Setting) -> Iterator[Searcher]:
        """One query per call. An IVF finds its nearest lists by a graph search whose ef is the number of lists to
        read."""
        faiss, index = importlib.import_module("faiss"), self._index
        faiss.omp_set_num_threads(1)
        if "IVF" in self.key:
            lists = faiss.extract_index_ivf(index)
            lists.nprobe = setting[0]
            faiss.downcast_index(lists.quantizer).hnsw.efSearch = max(16, setting[0])
        else:
            index.hnsw.efSearch = setting[0]
        yield lambda vector: index.search(vector[None], K)[1][0].tolist()


def autofaiss_key(rows: int, dimension: int) -> str:
    """The index that autofaiss chooses if memory is too small for full vectors: OPQ, lists found by a graph, PQ.

    For up to a million rows, autofaiss takes the power of 2 nearest to 4·√rows as the number of lists. 64 bytes per
    vector is a usual size.
    """
    lists = max(64, 2 ** round(np.log2(4 * np.sqrt(rows))))
    code = 64 if dimension % 64 == 0 else dimension // 2
    return f"OPQ{code}_{dimension},IVF{lists}_HNSW32,PQ{code}x8"
