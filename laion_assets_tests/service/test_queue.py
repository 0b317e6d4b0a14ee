"""Tests of parallel searches: how many run, how many wait, and what ends them."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from laion_assets.service.errors import RefusedError
from laion_assets.service.metrics import Metrics
from laion_assets.service.queue import ClientGoneError, SearchQueue


async def here() -> bool:
    return False


async def gone() -> bool:
    return True


def nothing() -> None: ...


class Search:
    """A search that runs until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def __call__(self) -> str:
        assert self.cancelled.wait(10)
        return "ended"


def test_no_more_than_the_limit_run_at_a_time() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def search() -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return 7

    async def all_of_them() -> list[int]:
        queue = SearchQueue(2, 100, 10, Metrics())
        return list(await asyncio.gather(*(queue.run(search, nothing, here) for _ in range(20))))

    assert asyncio.run(all_of_them()) == [7] * 20
    assert most == [2]


def test_a_full_queue_refuses_at_once_and_takes_again_afterwards() -> None:
    async def story() -> None:
        queue, slow = SearchQueue(1, 1, 10, Metrics()), Search()
        first = asyncio.create_task(queue.run(slow, nothing, here))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(queue.run(lambda: "second", nothing, here))
        await asyncio.sleep(0.05)
        with pytest.raises(RefusedError) as caught:
            await queue.run(lambda: "third", nothing, here)
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        slow.cancelled.set()
        assert [await first, await second] == ["ended", "second"]
        assert await queue.run(lambda: "fourth", nothing, here) == "fourth"

    asyncio.run(story())


@pytest.mark.parametrize(("client", "kind"), [(here, RefusedError), (gone, ClientGoneError)])
def test_a_search_is_cancelled_when_its_time_is_over_or_its_client_goes(client: object, kind: type[Exception]) -> None:
    async def story() -> None:
        queue, slow = SearchQueue(1, 1, 0.5, Metrics()), Search()
        with pytest.raises(kind):
            await queue.run(slow, slow.cancelled.set, client)  # type: ignore[arg-type]
        assert slow.cancelled.wait(2)
        # The cancelled search's place is free again.
        assert await queue.run(lambda: "next", nothing, here) == "next"

    asyncio.run(story())


def test_a_search_that_still_waits_is_dropped_and_never_runs() -> None:
    async def story() -> None:
        queue, slow, ran = SearchQueue(1, 5, 0.6, Metrics()), Search(), []
        first = asyncio.create_task(queue.run(slow, nothing, here))
        await asyncio.sleep(0.05)
        with pytest.raises(ClientGoneError):
            await queue.run(lambda: ran.append(1), nothing, gone)
        slow.cancelled.set()
        await first
        await asyncio.sleep(0.05)
        assert not ran

    asyncio.run(story())


def test_a_failure_of_a_search_reaches_its_caller() -> None:
    async def story() -> None:
        queue = SearchQueue(1, 1, 5, Metrics())
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda: 1 // 0, nothing, here)
        assert await queue.run(lambda: 1, nothing, here) == 1

    asyncio.run(story())
