"""Tests of the service with hostile clients: endless headers, slow bodies, connections without requests."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from laion_assets.service.app import SearchService
from laion_assets.service.connection import HEADER_BYTES, Connection
from laion_assets.service.limits import Limits
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets_tests.service.loopback import served
from laion_assets_tests.service.test_app import ask

ENDLESS = 256 * HEADER_BYTES
"""More bytes than the system buffers for a service that has stopped reading."""

HEAD = b"POST /knn-service HTTP/1.1\r\nHost: a\r\n"


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Opens a connection over which the test sends raw bytes."""
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=20) as client:
        yield client


def everything(client: socket.socket) -> bytes:
    """Returns all bytes until the service closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65_536):
            said += part
    return said


@pytest.fixture
def impatient(loaded: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that waits half a second for headers and bodies, and has room for 16 bodies of 100,000 bytes."""
    monkeypatch.setattr(Connection, "header_seconds", 0.5)
    limits = Limits(body_bytes=100_000, body_seconds=0.5)
    with served(SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, limits).app()) as base:
        yield base


@pytest.mark.parametrize(
    "piece", [b"X: " + b"a" * 4_000 + b"\r\n", b"a" * 4_096], ids=["many headers", "one endless header"]
)
def test_endless_headers_are_refused_after_64_kib(url: str, piece: bytes) -> None:
    with connected(url) as client:
        client.sendall(HEAD + b"X-Endless: ")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < ENDLESS:
                client.sendall(piece)
                sent += len(piece)
        assert sent < ENDLESS
        assert everything(client)[:12] in (b"HTTP/1.1 431", b"")


@pytest.mark.parametrize("begun", [b"", b"P", HEAD], ids=["nothing", "a letter", "some headers"])
def test_a_connection_that_asks_nothing_is_closed(impatient: str, begun: bytes) -> None:
    with connected(impatient) as client:
        client.sendall(begun)
        started = time.monotonic()
        assert everything(client) == b""
        assert time.monotonic() - started < 10


def test_a_second_request_may_be_no_slower_than_the_first(impatient: str) -> None:
    with connected(impatient) as client:
        client.sendall(b"GET /indices-list HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHo")
        assert everything(client).endswith(b'["sample"]')


def test_a_body_that_does_not_come_is_answered_408(impatient: str) -> None:
    with connected(impatient) as client:
        client.sendall(HEAD + b"Content-Length: 10\r\n\r\n{")
        said = everything(client)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.5 s" in said


def test_a_search_may_take_longer_than_a_body(impatient: str) -> None:
    with httpx.Client() as client:
        for _ in range(3):
            assert client.get(f"{impatient}/indices-list").status_code == 200
            time.sleep(0.7)


def test_bodies_are_limited_in_all(loaded: Settings) -> None:
    limits = Limits(body_bytes=100_000, body_seconds=10)
    service = SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, limits)
    with served(service.app()) as base, contextlib.ExitStack() as stack:
        for _ in range(16):
            client = stack.enter_context(connected(base))
            client.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 99_000)
        deadline = time.monotonic() + 10
        while (answer := httpx.post(f"{base}/knn-service", content=b"x" * 50_000)).status_code != 503:
            assert time.monotonic() < deadline
        assert "too many large requests" in answer.json()["error"]
        stack.close()
        while ask(base).status_code != 200:
            assert time.monotonic() < deadline


def test_a_client_that_goes_away_within_its_body_is_no_failure(url: str, caplog: pytest.LogCaptureFixture) -> None:
    before = _count(url, "499")
    with connected(url) as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.2)
    deadline = time.monotonic() + 10
    while _count(url, "499") == before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in caplog.text


def test_two_requests_in_one_breath_and_one_with_two_lengths(url: str) -> None:
    body = json.dumps({"modality": "image", "num_images": 1, "indice_name": None, "like": 5}).encode()
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with connected(url) as client:
        client.sendall(whole + whole.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        assert everything(client).count(b"HTTP/1.1 200") == 2
    for smuggled in (
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ):
        with connected(url) as client:
            client.sendall(HEAD + smuggled + b"\r\n" + b"0\r\n\r\n")
            assert everything(client).startswith(b"HTTP/1.1 400")


def test_whoever_asks_for_the_health_again_and_again_takes_no_connection_from_searches(loaded: Settings) -> None:
    looks = []

    class Counted(ServedIndex):
        def health(self) -> dict[str, Any]:
            looks.append(self.name)
            return super().health()

    with served(SearchService({"sample": Counted("sample", loaded, 60.0)}, Limits()).app()) as base:
        started = time.monotonic()
        with ThreadPoolExecutor(10) as threads:
            found = list(threads.map(lambda _: httpx.get(f"{base}/healthz").status_code, range(100)))
        assert found == [200] * 100
        assert len(looks) <= 2 + (time.monotonic() - started)


def test_the_command_holds_more_connections_than_the_usual_limit_of_open_files() -> None:
    program = (
        "from resource import RLIMIT_NOFILE, getrlimit, setrlimit\n"
        "setrlimit(RLIMIT_NOFILE, (256, getrlimit(RLIMIT_NOFILE)[1]))\n"
        "from laion_assets.terminal.serve import _allow_many_connections as allow\n"
        "allow(); print(getrlimit(RLIMIT_NOFILE)[0])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(said) > 1_024


def _count(url: str, status: str) -> float:
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("laion_assets_answers_total{") and 'path="/knn-service"' in line and f'"{status}"' in line:
            return float(line.rpartition(" ")[2])
    return 0.0
