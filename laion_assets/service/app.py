"""The ASGI application: clip-retrieval's interface, the page, health, metrics. served.py does the searches."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from laion_assets.service.answers import Answered, answer_knn, answer_metadata
from laion_assets.service.errors import RefusedError, bad_request
from laion_assets.service.limits import Limits
from laion_assets.service.metrics import Metrics
from laion_assets.service.picture import PictureFetches
from laion_assets.service.protection import Protection, refused
from laion_assets.service.queue import ClientGoneError, SearchQueue
from laion_assets.service.request import KnnRequest, knn_request, metadata_request
from laion_assets.service.served import ServedIndex, refusal_of
from laion_assets.table.endable import Endable

HEALTH_SECONDS = 1.0

PAGE = Path(__file__).with_name("page")

log = logging.getLogger(__name__)


class SearchService:
    """One application over several indexes, which are given by name; the first is the default."""

    def __init__(self, indexes: Mapping[str, ServedIndex], limits: Limits) -> None:
        self.indexes = indexes
        self.limits = limits
        self.metrics = Metrics()
        self.queue: SearchQueue | None = None
        self.pictures: PictureFetches | None = None
        if limits.pictures is not None:
            self.pictures = PictureFetches(limits.pictures, limits.searches, limits.queue)
        self._looking = anyio.Lock()
        self._health: tuple[float, dict[str, dict[str, Any]]] | None = None

    def app(self) -> Starlette:
        """The application. It opens and closes its searchers together with the server that runs it."""
        routes = [
            Route("/", self.page),
            Route("/healthz", self.guarded(self.health)),
            Route("/config.json", self.config),
            Route("/knn-service", self.guarded(self.knn), methods=["POST"]),
            Route("/metadata", self.guarded(self.metadata), methods=["POST"]),
            Route("/indices-list", self.guarded(self.indices)),
            Route("/metrics", self.guarded(self.prometheus)),
            Route("/metrics-summary", self.guarded(self.summary)),
            Mount("/page", StaticFiles(directory=PAGE)),
        ]
        made = Starlette(routes=routes, middleware=self.middleware(), lifespan=self.lifespan)
        # A redirect would go to any host that the request names.
        made.router.redirect_slashes = False
        return made

    def middleware(self) -> list[Middleware]:
        """What a request passes before its route: CORS for the allowed other sites, and the protection."""
        limits = self.limits
        own = Middleware(Protection, max_body=limits.body_bytes, token=limits.token, body_seconds=limits.body_seconds)
        if not limits.cors_origins:
            return [own]
        others = Middleware(
            CORSMiddleware,
            allow_origins=list(limits.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Search-Method", "X-Search-Milliseconds", "X-Search-Note"],
        )
        return [others, own]

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Warms the searchers at the start, releases idle engines, and closes all searchers at the end."""
        limits = self.limits
        self.queue = SearchQueue(limits.searches, limits.queue, limits.seconds, self.metrics)
        for index in self.indexes.values():
            index.start()
        try:
            yield
        finally:
            self.queue.close()
            for index in self.indexes.values():
                await anyio.to_thread.run_sync(index.close)

    def guarded(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The same route. Its failures are counted and answered in words; an unexpected one is only logged."""

        async def endpoint(request: Request) -> Response:
            with self.metrics.timed("full"):
                try:
                    response = await answer(request)
                except RefusedError as error:
                    response = refused(error)
                except (ClientGoneError, ClientDisconnect):
                    # Nobody reads this answer. nginx counts a request whose client went away as 499.
                    response = PlainTextResponse("", status_code=499)
                except Exception as error:
                    response = refused(self._refusal(error))
            self.metrics.answered(request.url.path, response.status_code)
            return response

        return endpoint

    @staticmethod
    def _refusal(error: Exception) -> RefusedError:
        refusal = refusal_of(error)
        if refusal is None:
            log.exception("a request failed", exc_info=error)
            return RefusedError(500, "the service failed; its log says why")
        if refusal.status >= 500:
            log.warning("a request was not answered: %s", error)
        return refusal

    async def knn(self, request: Request) -> Response:
        """`POST /knn-service`."""
        asked = knn_request(await request.body())
        index = self.index(asked.index)
        picture = await self._picture(asked)
        task = _task()
        started = time.perf_counter()
        search = partial(answer_knn, index, asked, picture, task, self.metrics)
        answered: Answered = await self._run(search, index, task, request)
        headers = {
            "X-Search-Method": answered.method,
            "X-Search-Milliseconds": f"{(time.perf_counter() - started) * 1000:.0f}",
        }
        if answered.notes or asked.ignored:
            headers["X-Search-Note"] = ascii_header("; ".join((*answered.notes, *asked.ignored)))
        return json_answer(answered.rows, headers)

    async def metadata(self, request: Request) -> Response:
        """`POST /metadata`."""
        asked = metadata_request(await request.body())
        index = self.index(asked.index)
        task = _task()
        search = partial(answer_metadata, index, asked.ids, task, self.metrics)
        return json_answer(await self._run(search, index, task, request))

    async def indices(self, _: Request) -> Response:
        """`GET /indices-list`."""
        return json_answer(list(self.indexes))

    async def prometheus(self, _: Request) -> Response:
        """`GET /metrics`."""
        return Response(self.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def summary(self, _: Request) -> Response:
        """`GET /metrics-summary`."""
        return PlainTextResponse(self.metrics.summary())

    async def config(self, request: Request) -> Response:
        """`GET /config.json`: the fields that clip-retrieval's front end reads, and those that our page needs."""
        return json_answer(
            {
                "defaultBackend": str(request.base_url),
                "defaultIndex": next(iter(self.indexes)),
                "urlColumn": "url",
                "indices": [index.description() for index in self.indexes.values()],
                "tokenNeeded": bool(self.limits.token),
            }
        )

    async def health(self, _: Request) -> Response:
        """`GET /healthz`: 200 if every index can be searched, or a load holds it for a short time; else 503.

        Anyone may call it, and each check uses a connection that a search could use. So one check a second serves all.
        """
        async with self._looking:
            if self._health is None or time.monotonic() - self._health[0] > HEALTH_SECONDS:
                found = {
                    name: await anyio.to_thread.run_sync(index.health, abandon_on_cancel=True)
                    for name, index in self.indexes.items()
                }
                self._health = (time.monotonic(), found)
            found = self._health[1]
        well = all(state["table"] != "unreachable" for state in found.values())
        return json_answer({"status": "ok" if well else "failing", "indexes": found}, status=200 if well else 503)

    async def page(self, _: Request) -> Response:
        """`GET /`: the search page."""
        return FileResponse(PAGE / "index.html")

    def index(self, name: str | None) -> ServedIndex:
        """The index with this name; the first one if no name is given. Raises `RefusedError`."""
        if name is None or name == "":
            return next(iter(self.indexes.values()))
        if name not in self.indexes:
            raise bad_request(f"no index has that name; there are {', '.join(self.indexes)}")
        return self.indexes[name]

    async def _picture(self, asked: KnnRequest) -> bytes | None:
        if asked.picture_url is None:
            return asked.picture
        if self.pictures is None:
            raise RefusedError(403, "pictures by URL are turned off here; send the picture itself in base64")
        with self.metrics.timed("picture"):
            return await self.pictures.fetch(asked.picture_url)

    async def _run(self, search: Callable[[], Any], index: ServedIndex, task: Endable, request: Request) -> Any:
        if self.queue is None:
            raise RefusedError(503, "the service is starting", retry_after=1)
        return await self.queue.run(search, partial(index.cancel, task), request.is_disconnected)


def _task() -> Endable:
    """A new search, with a comment that no other statement has."""
    return Endable(f"laion-assets-{uuid.uuid4()}")


def json_answer(
    document: Mapping[str, Any] | Sequence[Any], headers: Mapping[str, str] | None = None, *, status: int = 200
) -> Response:
    """JSON in ASCII: lone surrogates, which a caption of broken UTF-8 contains, become escapes instead of an error."""
    return Response(json.dumps(document).encode(), status, headers, "application/json")


def ascii_header(text: str) -> str:
    """A text in a form for a header: one line of ASCII."""
    return " ".join(text.split()).encode("ascii", "replace").decode()
