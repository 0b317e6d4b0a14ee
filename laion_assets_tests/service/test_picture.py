"""Tests of fetching pictures by URL: allowed addresses and limits. The servers are real ones on loopback."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from laion_assets.service.app import SearchService
from laion_assets.service.errors import RefusedError
from laion_assets.service.limits import Limits
from laion_assets.service.picture import PictureLimits, fetch_picture
from laion_assets_tests.service.loopback import served

LOOPBACK = PictureLimits(seconds=2, bytes=10_000, private=(ipaddress.ip_network("127.0.0.0/8"),))
PUBLIC = PictureLimits(seconds=2)
PICTURE = b"\x89PNG and so on"

asked: list[str] = []

held = {"now": 0, "most": 0}
"""The number of requests of `/held` that are being answered, and its maximum."""


async def _picture(request: Request) -> Response:
    asked.append(request.headers["host"])
    return Response(PICTURE, media_type="image/png")


async def _page(_: Request) -> Response:
    return Response("<html>", media_type="text/html")


async def _drawing(_: Request) -> Response:
    return Response("<svg/>", media_type="image/svg+xml")


async def _absent(_: Request) -> Response:
    return Response(status_code=404)


async def _redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"])


async def _loop(_: Request) -> Response:
    return RedirectResponse("/loop")


async def _large(_: Request) -> Response:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    return StreamingResponse(blocks(), media_type="image/png")


async def _packed(request: Request) -> Response:
    encoding = request.query_params["by"]
    content = gzip.compress(bytes(2**20)) if encoding == "gzip" else PICTURE
    return Response(content, media_type="image/png", headers={"Content-Encoding": encoding})


async def _held(_: Request) -> Response:
    held["now"] += 1
    held["most"] = max(held["most"], held["now"])
    await asyncio.sleep(0.1)
    held["now"] -= 1
    return Response(PICTURE, media_type="image/png")


async def _slow(_: Request) -> Response:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.2)

    return StreamingResponse(blocks(), media_type="image/png")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    routes = [("/picture", _picture), ("/page", _page), ("/svg", _drawing), ("/absent", _absent)]
    routes += [
        ("/redirect", _redirect),
        ("/large", _large),
        ("/slow", _slow),
        ("/loop", _loop),
        ("/packed", _packed),
        ("/held", _held),
    ]
    with served(Starlette(routes=[Route(path, answer) for path, answer in routes])) as url:
        yield url


def fetch(url: str, limits: PictureLimits = LOOPBACK) -> bytes:
    return asyncio.run(fetch_picture(url, limits))


def refusal(url: str, limits: PictureLimits = LOOPBACK) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        fetch(url, limits)
    return caught.value


def test_a_picture_is_fetched_with_the_host_that_was_asked_for(server: str) -> None:
    assert fetch(f"{server}/picture") == PICTURE
    assert asked[-1] == server.removeprefix("http://")


def test_a_redirect_is_followed_a_few_times(server: str) -> None:
    assert fetch(f"{server}/redirect?to=/picture") == PICTURE
    assert "redirects more than" in refusal(f"{server}/loop").reason


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x.png",
        "http://localhost/x.png",
        "http://[::1]/x.png",
        "http://[::ffff:127.0.0.1]/x.png",
        "http://[64:ff9b::7f00:1]/x.png",
        "http://[2002:7f00:1::]/x.png",
        "http://10.0.0.1/x.png",
        "http://192.168.1.1/x.png",
        "http://169.254.169.254/latest/meta-data",
        "http://100.64.0.1/x.png",
        "http://0.0.0.0/x.png",
        "http://[fe80::1]/x.png",
        "http://[fd00::1]/x.png",
        "http://2130706433/x.png",
        "http://0x7f.1/x.png",
        "http://127.1/x.png",
        "http://224.0.0.1/x.png",
        "http://[64:ff9b:1::a00:1]/x.png",
        "http://[64:ff9b:1:ffff::1]/x.png",
        "http://[fec0::1]/x.png",
        "http://[::127.0.0.1]/x.png",
        "http://[::8.8.8.8]/x.png",
        "http://192.88.99.1/x.png",
        "http://[::ffff:192.88.99.1]/x.png",
        "http://[2002:c058:6301::]/x.png",
        "http://[::ffff:10.0.0.1]/x.png",
        "http://[::]/x.png",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    error = refusal(url, PUBLIC)
    assert error.status == 403
    assert "not public" in error.reason


def test_a_redirect_to_an_address_that_is_not_public_is_refused(server: str) -> None:
    limits = PictureLimits(private=(ipaddress.ip_network("127.0.0.1/32"),))
    error = refusal(f"{server}/redirect?to=http://127.0.0.2:1/x.png", limits)
    assert error.status == 403


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x.png",
        "gopher://host",
        "http://",
        "http://user:pw@127.0.0.1/x",
        "http://[::1",
        "x",
        "http://a:99999/",
        "http://no.such.host.invalid/x.png",
        "http://a\x00b/",
    ],
)
def test_what_is_no_picture_url_is_refused_without_its_text(url: str) -> None:
    error = refusal(url)
    assert error.status == 400
    assert "pw" not in error.reason.replace("picture", "")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/page", "does not answer with a picture"),
        ("/svg", "does not answer with a picture"),
        ("/absent", "answered 404"),
        ("/large", "larger than 10,000 bytes"),
        ("/slow", "within 2 s"),
    ],
)
def test_what_is_no_picture_or_too_much_of_one_is_refused(server: str, path: str, words: str) -> None:
    assert words in refusal(server + path).reason


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "made-up"])
def test_a_packed_answer_is_refused_before_it_is_unpacked(server: str, encoding: str) -> None:
    assert "Content-Encoding" in refusal(f"{server}/packed?by={encoding}").reason
    assert fetch(f"{server}/packed?by=identity") == PICTURE


def test_pictures_are_fetched_a_few_at_a_time_and_the_rest_is_refused(server: str) -> None:
    """The service has no index, so searches with fetched pictures fail; status 503 means that a fetch was refused."""
    service = SearchService({"x": NoIndex()}, Limits(searches=2, queue=3, pictures=LOOPBACK))  # type: ignore[dict-item]
    body = json.dumps({"modality": "image", "num_images": 1, "image_url": f"{server}/held"}).encode()

    async def ask_all(url: str) -> list[int]:
        async with httpx.AsyncClient(timeout=30) as client:
            answers = await asyncio.gather(*(client.post(f"{url}/knn-service", content=body) for _ in range(20)))
        return [answer.status_code for answer in answers]

    held.update(now=0, most=0)
    with served(service.app()) as url:
        statuses = asyncio.run(ask_all(url))
        assert held["most"] == 2
        assert statuses.count(503) == 15
        assert asyncio.run(ask_all(url)).count(503) == 15, "the places are free again"


class NoIndex:
    """An index without a table: a search in it fails."""

    def start(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
