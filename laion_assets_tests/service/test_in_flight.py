"""Tests of searches in flight: an ended search leaves at once, and an idle engine is given back, but not a busy one."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import httpx
import pytest

from laion_assets.clip import ready
from laion_assets.service.app import SearchService
from laion_assets.service.request import knn_request
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets.table.endable import Endable
from laion_assets_tests.service.conftest import LIMITS
from laion_assets_tests.service.loopback import served
from laion_assets_tests.table.loaded import holder

IDLE_SECONDS = 0.3
MODEL_SECONDS = 1.5
"""Seconds that a model takes to load here: several times as long as an engine may be idle."""

BODY = {"modality": "image", "num_images": 5, "indice_name": "sample", "like": 3}


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def slow_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the real model load slowly, as a large one from a cold disk does."""
    at_once = ready.open_encoder

    def slowly(settings: Settings) -> object:
        time.sleep(MODEL_SECONDS)
        return at_once(settings)

    monkeypatch.setattr(ready, "open_encoder", slowly)


@contextmanager
def opened(settings: Settings, idle_seconds: float = IDLE_SECONDS) -> Iterator[ServedIndex]:
    """Starts an index whose engine may be idle for a short time, without its warm-up; closes it at the end."""
    index = ServedIndex("sample", settings, idle_seconds)
    thread = threading.Thread(target=index._give_back_when_idle, daemon=True)
    thread.start()
    try:
        yield index
    finally:
        index.close()
        thread.join(10)


def search(index: ServedIndex, **asked: object) -> None:
    """Searches the index."""
    request = knn_request(json.dumps({**BODY, **asked}).encode())
    assert len(index.search(index.query(request, None), request, Endable("a test")).neighbours) == 5


def test_a_search_that_waits_for_a_connection_is_ended_when_its_client_goes(loaded: Settings) -> None:
    index = ServedIndex("sample", loaded, 60)
    service = SearchService({"sample": index}, replace(LIMITS, searches=2))

    def running() -> int:
        (count,) = re.findall(r"^laion_assets_searches_running (\d+)", httpx.get(f"{base}/metrics").text, re.MULTILINE)
        return int(count)

    with served(service.app()) as base, ExitStack() as stack:
        assert httpx.post(f"{base}/knn-service", content=json.dumps(BODY)).status_code == 200
        for _ in range(index.searcher._connections.size):
            stack.enter_context(index.searcher.connection())
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{base}/knn-service", content=json.dumps(BODY), timeout=0.3)
        # Both places are free again while every connection is still lent.
        until(lambda: running() == 0, seconds=10)


def test_a_service_that_nobody_asks_gives_the_engine_back_however_long_its_model_loads(
    loaded: Settings, slow_model: None
) -> None:
    index = ServedIndex("sample", loaded, IDLE_SECONDS)
    before = threading.enumerate()
    index.start()
    try:
        (warm_up,) = (each for each in threading.enumerate() if each.name == "warm sample" and each not in before)
        warm_up.join(60)
        assert not warm_up.is_alive()
        until(lambda: index.health()["table"] == "given back")
        with holder(loaded.data_dir):
            assert index.health()["table"] == "given back"
    finally:
        index.close()


def test_the_engine_stays_open_while_a_search_is_in_flight(loaded: Settings, slow_model: None) -> None:
    with opened(loaded) as index:
        search(index)
        words = threading.Thread(target=search, args=(index,), kwargs={"like": None, "text": "white clock"})
        words.start()
        time.sleep(MODEL_SECONDS / 2)
        assert index.health()["table"] == "reachable"
        words.join(60)
        until(lambda: index.health()["table"] == "given back")


def test_an_engine_that_was_opened_without_a_search_is_shown_as_open_and_given_back(loaded: Settings) -> None:
    with opened(loaded, idle_seconds=3) as index:
        assert index.health()["table"] == "given back"
        with index.searcher.connection():
            pass
        assert index.health()["table"] == "reachable"
        until(lambda: index.health()["table"] == "given back")
