"""Runs a limited number of searches in threads at a time; more wait in a bounded queue. It knows no ClickHouse."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from laion_assets.service.errors import RefusedError
from laion_assets.service.metrics import Metrics

Result = TypeVar("Result")
Gone = Callable[[], Awaitable[bool]]
"""Tells whether the client of a request went away."""

CLIENT_CHECK_SECONDS = 0.25
"""Interval at which a waiting request checks whether its client is still there."""


class ClientGoneError(Exception):
    """The client closed its connection, so nobody reads an answer."""


@dataclass
class _Turn:
    """Whether a search has left the queue."""

    begun: bool = False


class SearchQueue:
    """At most `running` searches at a time, and at most `waiting` in the queue; each must end within `seconds`."""

    def __init__(self, running: int, waiting: int, seconds: float, metrics: Metrics) -> None:
        self._places = asyncio.Semaphore(running)
        self._threads = ThreadPoolExecutor(running, thread_name_prefix="search")
        # Ending a search may take as long as its last statement, so each search has a thread for this, too.
        self._enders = ThreadPoolExecutor(running, thread_name_prefix="end")
        self._most_waiting = waiting
        self._seconds = seconds
        self._metrics = metrics
        self._waiting = 0

    async def run(self, search: Callable[[], Result], cancel: Callable[[], None], gone: Gone) -> Result:
        """The result of `search`, which runs in a thread.

        When the time is over or the client goes away, a search that still waits is dropped. For a running search
        `cancel` is called in a thread of its own. It must end the search, so that the search's thread is free again,
        also if the search has not begun its statement yet. Raises `RefusedError`
        503 when the queue is full and 504 when the time is over, `ClientGoneError`, and all errors of `search`.
        """
        if self._places.locked() and self._waiting >= self._most_waiting:
            raise RefusedError(503, "too many searches are waiting; try again in a moment", retry_after=1)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        turn = _Turn()
        task = loop.create_task(self._in_turn(search, turn))
        try:
            while not (await asyncio.wait({task}, timeout=CLIENT_CHECK_SECONDS))[0]:
                await self._still_wanted(deadline, gone)
        except BaseException:
            task.add_done_callback(_nobody_reads)
            if turn.begun:
                loop.run_in_executor(self._enders, cancel)
            else:
                task.cancel()
            raise
        return task.result()

    async def _still_wanted(self, deadline: float, gone: Gone) -> None:
        if asyncio.get_running_loop().time() >= deadline:
            raise RefusedError(504, f"the search did not end within {self._seconds:g} s and was ended")
        if await gone():
            raise ClientGoneError

    def close(self) -> None:
        """Ends the threads when their searches end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._enders.shutdown(wait=False)

    async def _in_turn(self, search: Callable[[], Result], turn: _Turn) -> Result:
        self._waiting += 1
        self._metrics.waiting.inc()
        try:
            with self._metrics.timed("queue"):
                await self._places.acquire()
        finally:
            self._waiting -= 1
            self._metrics.waiting.dec()
        try:
            turn.begun = True
            with self._metrics.running.track_inprogress():
                return await asyncio.get_running_loop().run_in_executor(self._threads, search)
        finally:
            self._places.release()


def _nobody_reads(task: asyncio.Task[Any]) -> None:
    """Reads the exception of an abandoned search; otherwise asyncio would log it as never retrieved."""
    if not task.cancelled():
        task.exception()
