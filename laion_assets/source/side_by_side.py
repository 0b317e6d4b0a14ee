"""Runs jobs in parallel on a few threads that can be abandoned: the first failure, or an interrupt, ends all of them.

`concurrent.futures` runs the same jobs, but waits for its threads when the process ends. A thread that is connecting
could delay this for its whole time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from queue import Empty, SimpleQueue
from typing import TypeVar

from laion_assets.source.failures import StoppedError

Result = TypeVar("Result")

LEAVE_AFTER_SECONDS = 1.0
"""Seconds that a stop waits for the threads. An abandoned thread may finish its connection, but writes nothing."""


def side_by_side(jobs: Sequence[Callable[[], Result]], *, threads: int, stop: Callable[[], None]) -> list[Result]:
    """The results of all jobs, in order, from at most `threads` threads at once.

    Raises the first exception of a job, or of the calling thread while it waits (`KeyboardInterrupt`). Before that,
    `stop` is called to end the other jobs.
    """
    futures: list[Future[Result]] = [Future() for _ in jobs]
    queue: SimpleQueue[tuple[Callable[[], Result], Future[Result]]] = SimpleQueue()
    for pair in zip(jobs, futures, strict=True):
        queue.put(pair)
    workers = [threading.Thread(target=_work, args=(queue,), daemon=True) for _ in range(min(threads, len(jobs)))]
    try:
        for worker in workers:
            worker.start()
        _wait_for(futures)
    except BaseException:
        stop()
        ends_at = time.monotonic() + LEAVE_AFTER_SECONDS
        for worker in workers:
            worker.join(max(0.0, ends_at - time.monotonic()))
        raise
    return [future.result() for future in futures]


def _wait_for(futures: Sequence[Future[Result]]) -> None:
    """Waits until all are done or one failed, and raises its exception."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    failures = [failure for failure in (future.exception() for future in done) if failure is not None]
    if failures:
        raise next((each for each in failures if not isinstance(each, StoppedError)), failures[0])


def _work(queue: SimpleQueue[tuple[Callable[[], Result], Future[Result]]]) -> None:
    while True:
        try:
            job, future = queue.get_nowait()
        except Empty:
            return
        try:
            future.set_result(job())
        except BaseException as error:  # the waiting thread raises it
            future.set_exception(error)
