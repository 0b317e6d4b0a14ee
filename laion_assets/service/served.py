"""One index of the service: a Searcher that releases the embedded engine when idle, and its failures as refusals."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from laion_assets.clip.images import load_image
from laion_assets.errors import (
    ClipError,
    EndedError,
    EngineHeldError,
    LaionError,
    SearchError,
    ServerUnreachableError,
    TableError,
)
from laion_assets.query import Query
from laion_assets.recall.compare import kept_evaluations
from laion_assets.recall.figures import recall_folder
from laion_assets.searcher import Searcher
from laion_assets.searching.ending import end_search
from laion_assets.searching.request import Neighbour, SearchRequest
from laion_assets.searching.rows import rows_of
from laion_assets.service.errors import RefusedError
from laion_assets.service.request import KnnRequest
from laion_assets.settings import Settings
from laion_assets.table.endable import Endable
from laion_assets.table.schema import PAGE_COLUMNS, partitions
from laion_assets.table.vectors import By, vectors_of

HELD_SECONDS = 1.0
"""Seconds that a request waits for an embedded engine that another process holds, before it is refused for now."""

RETRY_SECONDS = 5
"""Retry-After in seconds while a load holds the engine, or a server does not answer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a search found, nearest first, the method that found it, and notes for the client."""

    neighbours: list[Neighbour]
    method: str
    notes: tuple[str, ...]


class ServedIndex:
    """The table of one dataset under a name; safe for several threads. Raises typed errors, see `refusal_of`."""

    def __init__(self, name: str, settings: Settings, idle_seconds: float) -> None:
        wait = min(settings.clickhouse_wait_seconds, HELD_SECONDS)
        self.name = name
        self.settings = settings.model_copy(update={"clickhouse_wait_seconds": wait})
        self.searcher = Searcher(self.settings)
        self.embedded = settings.clickhouse_url.get_secret_value().startswith("chdb:")
        self._idle_seconds = idle_seconds
        self._counting = threading.Lock()
        self._in_flight = 0
        self._used = time.monotonic()
        self._closed = threading.Event()
        self._warm_up = Endable(f"laion-assets warm-up of {name}")

    def start(self) -> None:
        """Reads the graphs and the text model into memory, in a thread. The table need not exist yet."""
        threading.Thread(target=self._warm, name=f"warm {self.name}", daemon=True).start()
        if self.embedded:
            threading.Thread(target=self._give_back_when_idle, name=f"idle {self.name}", daemon=True).start()

    def close(self) -> None:
        """Closes the connection and drops the model. Ends the warm-up, which would open the engine again."""
        self._closed.set()
        self._warm_up.end()
        self.searcher.close()

    def query(self, asked: KnnRequest, picture: bytes | None) -> Query:
        """The query of a request. Raises `RefusedError` for a picture that cannot be decoded."""
        if asked.text is not None:
            return Query(text=asked.text)
        if picture is not None:
            try:
                return Query(image=load_image(picture))
            except ClipError as error:
                raise RefusedError(400, f"{error.subject}: found {error.found}") from error
        return Query(vector=asked.vector) if asked.vector is not None else Query(like=asked.like)

    def search(self, query: Query, asked: KnnRequest, task: Endable) -> Found:
        """The nearest rows; `cancel` ends the search by its task."""
        request = SearchRequest(
            by=asked.by,
            limit=asked.num_result_ids,
            exact=asked.exact,
            where=asked.where,
            method=asked.method,
        )
        with self._using():
            answer = self.searcher.answer([query], request, task=task)[0]
        chosen = None if answer.why is None else f"method {answer.method}: {answer.why}"
        notes = tuple(note for note in (answer.untuned, chosen) if note is not None)
        return Found(answer.result.neighbours, answer.result.way, notes)

    def cancel(self, task: Endable) -> None:
        """Ends a search; returns when none of its statements runs. A failure is only logged, since nobody waits."""
        try:
            end_search(self.settings, task)
        except LaionError as error:
            log.warning("a search could not be ended: %s", error)

    def metadata(self, ids: Sequence[int], task: Endable) -> dict[int, dict[str, Any]]:
        """The rows with these ids, by id, without vectors; `task` as in `search`."""
        with self._using(), self.searcher.connection(task) as db:
            return rows_of(db, ids)

    def vectors(self, ids: Sequence[int], by: By, task: Endable) -> dict[int, npt.NDArray[np.float32]]:
        """The stored vectors of these rows by id, each (dimension,); `task` as in `search`."""
        with self._using(), self.searcher.connection(task) as db:
            block = vectors_of(db, by, list(ids))
        return dict(zip(block.ids.tolist(), block.vectors, strict=True))

    def description(self) -> dict[str, Any]:
        """What the page needs to know about the index."""
        dataset = self.settings.dataset
        columns = [*PAGE_COLUMNS, "shard", *self.settings.extra_column_types]
        return {"name": self.name, "dataset": dataset.name, "hasText": dataset.has_text, "columns": columns}

    def health(self) -> dict[str, Any]:
        """Whether the table can be searched, its rows and partitions, and the index and age of its recall report.

        An embedded engine that was released is not opened for this, since a load may need it now.
        """
        state: dict[str, Any] = {"table": "given back", "recall": self._recall()}
        if self.embedded and not self.searcher.is_open:
            return state
        try:
            with self.searcher.connection() as db:
                found = partitions(db)
        except EngineHeldError:
            return {**state, "table": "held by a load"}
        except TableError as error:
            log.warning("the table is not reachable: %s", error)
            return {**state, "table": "unreachable"}
        return {**state, "table": "reachable", "partitions": len(found), "rows": sum(one.rows for one in found)}

    def _recall(self) -> dict[str, Any] | None:
        folder, kept = recall_folder(self.settings), kept_evaluations(self.settings)
        if not kept:
            return None
        evaluation = kept[0]
        age = time.time() - max(path.stat().st_mtime for path in folder.glob("*.json"))
        return {"index": evaluation.index, "rows": evaluation.rows, "age_seconds": round(age)}

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Counts a search in flight, from before it opens the engine until it has its answer."""
        with self._counting:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._counting:
                self._in_flight -= 1
                self._used = time.monotonic()

    def _warm(self) -> None:
        """The text first: its model is read before the search opens the engine, which a load may need until then."""
        query, request, task = Query(text="warm"), SearchRequest(limit=1), self._warm_up
        for search in (lambda: self.searcher.answer([query], request, task=task), lambda: self.searcher.warm(task)):
            try:
                with self._using():
                    search()
            except EndedError:
                return
            except LaionError as error:
                log.warning("index %s is not warm yet: %s", self.name, error)

    def _give_back_when_idle(self) -> None:
        while not self._closed.wait(min(self._idle_seconds / 4, 1.0)):
            # A search that begins now waits for the lock, and then opens the engine again.
            with self._counting:
                idle = not self._in_flight and time.monotonic() - self._used >= self._idle_seconds
                if idle and self.searcher.is_open:
                    self.searcher.give_back()


def refusal_of(error: Exception) -> RefusedError | None:
    """The refusal for a typed error; None for an unexpected failure.

    An error in the request is shown unchanged. An error of the service is shown without paths and addresses.
    """
    if isinstance(error, SearchError):
        return RefusedError(400, str(error))
    if isinstance(error, EngineHeldError):
        return RefusedError(503, "a load holds the table; try again in a moment", retry_after=RETRY_SECONDS)
    if isinstance(error, ServerUnreachableError):
        return RefusedError(503, "ClickHouse does not answer; try again in a moment", retry_after=RETRY_SECONDS)
    if isinstance(error, ClipError):
        return RefusedError(503, "the encoder of this dataset is not ready; the service's log says why")
    if isinstance(error, TableError):
        return RefusedError(
            503, "the table cannot be searched now; the service's log says why", retry_after=RETRY_SECONDS
        )
    return None
