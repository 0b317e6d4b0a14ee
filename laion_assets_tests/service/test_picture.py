"""Pictures by URL: from where they are fetched, and how much. The servers are real ones on loopback."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from laion_assets.service.errors import RefusedError
from laion_assets.service.picture import PictureLimits, fetch_picture
from laion_assets_tests.service.loopback import served

LOOPBACK = PictureLimits(seconds=2, bytes=10_000, private=(ipaddress.ip_network("127.0.0.0/8"),))
PUBLIC = PictureLimits(seconds=2)
PICTURE = b"\x89PNG and so on"

asked: list[str] = []


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


async def _slow(_: Request) -> Response:
    async def blocks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.2)

    return StreamingResponse(blocks(), media_type="image/png")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    routes = [("/picture", _picture), ("/page", _page), ("/svg", _drawing), ("/absent", _absent)]
    routes += [("/redirect", _redirect), ("/large", _large), ("/slow", _slow), ("/loop", _loop)]
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
