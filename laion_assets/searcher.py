"""`Searcher`: searches one table many times. It holds what a search needs, and gives it back at the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from laion_assets.query import Answer, Batch, Query
from laion_assets.recall.kept_report import NamedSettings, named_settings
from laion_assets.searching.batch import search_all
from laion_assets.searching.dispatch import search_by_method
from laion_assets.searching.request import (
    MethodName,
    SearchRequest,
    SearchResult,
    check_request,
)
from laion_assets.searching.statement import vector_of
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connections import Connections
from laion_assets.table.database import Database
from laion_assets.table.endable import Endable
from laion_assets.table.vectors import By
from laion_assets.tuned_request import answer_facts, request_of, tuned

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from laion_assets.clip.encoder import ClipEncoder

KEPT_SECONDS = 10.0
"""Seconds after which the recall report's search settings, and the table they are for, are read again."""

BATCH = 1_000
"""How many queries `search_many` encodes and searches together: their vectors take 2 MB."""


@dataclass(frozen=True)
class Warmth:
    """Seconds of the first search by one kind of vectors after opening, which reads the graphs, and of the second."""

    by: By
    first_seconds: float
    second_seconds: float
    graphs: int | None
    parts: int | None


class Searcher:
    """Searches one table many times. It is safe for several threads, and is a context manager.

    It holds the connection, the CLIP model after the first text or picture, conditions that were checked, and the
    search settings that the recall report named. No other process can open the embedded engine's folder until
    `give_back` is called or the block ends.

        >>> with laion_assets.Searcher() as searcher:
        ...     searcher.search("a dog and a cat", limit=3)
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Makes a searcher for the table of `settings`, by default of the LAION_* variables. Opens nothing yet."""
        self.settings = settings or load_settings()
        self._connections = Connections(self.settings)
        self._encoding = threading.Lock()
        self._encoder: ClipEncoder | None = None
        self._named: tuple[float, NamedSettings] | None = None

    def __enter__(self) -> Searcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the searches that are running, then closes the connections and drops the model."""
        self._connections.close()
        with self._encoding:
            self._encoder = None

    def give_back(self) -> None:
        """Gives the embedded engine's folder to other processes; the next search opens it again.

        Waits for the searches that are running. Keeps the model and what earlier searches found out.
        """
        self._connections.give_back()

    @property
    def is_open(self) -> bool:
        """Whether a connection is open, so that no other process can open an embedded engine's folder."""
        return self._connections.is_open

    def connection(self, task: Endable | None = None) -> AbstractContextManager[Database]:
        """The table's connection for one thread, for a `with` block. Raises `TableError`, and `EndedError` if another
        thread ended `task`."""
        return self._connections.borrowed(task)

    def search(
        self,
        text: str | None = None,
        *,
        image: str | Path | bytes | Image.Image | None = None,
        vector: npt.ArrayLike | None = None,
        like: int | None = None,
        by: By = "image",
        exact: bool = False,
        where: str | None = None,
        shards: Sequence[int] | None = None,
        limit: int = 10,
        method: MethodName | None = None,
    ) -> pl.DataFrame:
        """The nearest rows as a polars frame, with the arguments, columns and errors of `laion_assets.search`."""
        request = request_of(by=by, exact=exact, where=where, shards=shards, limit=limit, method=method)
        query = Query(text=text, image=image, vector=vector, like=like)
        return self.answer([query], request)[0].framed()

    def search_many(
        self,
        queries: Sequence[str | Query],
        *,
        by: By = "image",
        exact: bool = False,
        where: str | None = None,
        shards: Sequence[int] | None = None,
        limit: int = 10,
        method: MethodName | None = None,
    ) -> Batch:
        """The answers to many queries (texts or others), in order. They are encoded and searched together.

        Raises the errors of `search`, also when only one query cannot be answered.
        """
        request = request_of(by=by, exact=exact, where=where, shards=shards, limit=limit, method=method)
        return self.answer_many([Query(text=one) if isinstance(one, str) else one for one in queries], request)

    def answer(self, queries: Sequence[Query], request: SearchRequest, *, task: Endable | None = None) -> list[Answer]:
        """The answers to a few queries, encoded together, one after the other over one connection.

        Raises `SearchError` for a query or request that cannot be answered, `ClipError` for a picture that cannot be
        read or a model that is missing or has another dimension, `TableError` when there is no table. All queries are
        checked and encoded before the table is opened, so that the embedded engine, which belongs to one process at a
        time, is held for a short time. If another thread ends `task`, no further statement begins, and `EndedError` is
        raised.
        """
        vectors, model, seconds = self._prepared(queries, request, task)
        with self._connections.borrowed(task) as db:
            named = self._named_settings(db, request)
            asked = [tuned(request, query, named) for query in queries]
            results = [
                search_by_method(db, _vector(db, query, vector, request.by), one)
                for query, vector, one in zip(queries, vectors, asked, strict=True)
            ]
        return _answers(queries, vectors, results, model, seconds, answer_facts(request, queries, asked, named))

    def answer_many(self, queries: Sequence[Query], request: SearchRequest) -> Batch:
        """The answers to many queries, searched over all connections at the same time. Raises as `answer` does."""
        answers: list[Answer] = []
        encoding = searching = 0.0
        for start in range(0, len(queries), BATCH):
            some = queries[start : start + BATCH]
            vectors, model, seconds = self._prepared(some, request)
            started = time.perf_counter()
            with self._connections.borrowed() as db:
                named = self._named_settings(db, request)
                targets = [_vector(db, query, vector, request.by) for query, vector in zip(some, vectors, strict=True)]
            asked = [tuned(request, query, named) for query in some]
            results = search_all(self._connections, targets, asked)
            searching += time.perf_counter() - started
            encoding += seconds
            answers += _answers(some, vectors, results, model, seconds, answer_facts(request, some, asked, named))
        return Batch(answers, encoding, searching)

    def warm(self, task: Endable | None = None) -> list[Warmth]:
        """Reads the graphs of all parts into ClickHouse's cache, by two searches of each kind of vectors.

        Raises `TableError`, and `EndedError` if another thread ended `task`.
        """
        target = np.ones(self.settings.dataset.dimension, np.float32)
        kinds: list[By] = ["image", "text"] if self.settings.dataset.has_text else ["image"]
        found = []
        for by in kinds:
            with self._connections.borrowed(task) as db:
                first, second = (search_by_method(db, target, SearchRequest(by=by)) for _ in range(2))
            found.append(Warmth(by, first.seconds, second.seconds, first.graphs, first.parts))
        return found

    def _prepared(
        self, queries: Sequence[Query], request: SearchRequest, task: Endable | None = None
    ) -> tuple[list[npt.ArrayLike | None], str | None, float]:
        """Checks the queries; returns their vectors as `_encoded` does, the model's name, and the seconds."""
        check_request(request, self.settings.dataset)
        for query in queries:
            query.check(self.settings.dataset.dimension)
        started = time.perf_counter()
        vectors, model = self._encoded(queries, task)
        return vectors, model, time.perf_counter() - started

    def _encoded(self, queries: Sequence[Query], task: Endable | None) -> tuple[list[npt.ArrayLike | None], str | None]:
        """The vector of each query, None for a query that has its own, and the model's name if the model was used."""
        texts = {number: query.text for number, query in enumerate(queries) if query.text is not None}
        images = {number: query.image for number, query in enumerate(queries) if query.image is not None}
        vectors: list[npt.ArrayLike | None] = [None] * len(queries)
        if not texts and not images:
            return vectors, None
        # Imported late: a search by vector or id needs neither model nor fastembed, whose import takes 0.7 s.
        from laion_assets.clip.model import clip_model
        from laion_assets.clip.ready import open_encoder

        with self._encoding:
            if task is not None:
                task.check()
            self._encoder = self._encoder or open_encoder(self.settings)
            for number, vector in zip(texts, self._encoder.encode_texts(texts.values()), strict=True):
                vectors[number] = vector
            for number, vector in zip(images, self._encoder.encode_images(images.values()), strict=True):
                vectors[number] = vector
        return vectors, clip_model(self.settings).name

    def _named_settings(self, db: Database, request: SearchRequest) -> NamedSettings:
        """The search settings that the recall report named, read again after ten seconds. Exact search needs none."""
        if request.exact or request.method == "exact":
            return NamedSettings()
        now, kept = time.monotonic(), self._named
        if kept is None or now - kept[0] > KEPT_SECONDS:
            kept = self._named = (now, named_settings(self.settings, db))
        return kept[1]


def _answers(
    queries: Sequence[Query],
    vectors: Sequence[npt.ArrayLike | None],
    results: Sequence[SearchResult],
    model: str | None,
    seconds: float,
    told: Sequence[dict[str, Any]],
) -> list[Answer]:
    share = seconds / max(sum(vector is not None for vector in vectors), 1)
    return [
        Answer(query, result, *((None, 0.0) if vector is None else (model, share)), **more)
        for query, vector, result, more in zip(queries, vectors, results, told, strict=True)
    ]


def _vector(db: Database, query: Query, encoded: npt.ArrayLike | None, by: By) -> npt.ArrayLike:
    if encoded is not None:
        return encoded
    if query.like is not None:
        return vector_of(db, query.like, by)
    return [] if query.vector is None else query.vector
