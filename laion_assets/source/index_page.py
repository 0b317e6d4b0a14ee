"""The names that a web server's directory lists, or that exist if it lists nothing. It does not interpret names."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from urllib3.response import BaseHTTPResponse

from laion_assets.errors import PermanentSourceError
from laion_assets.redact import redact
from laion_assets.source.client import SourceClient, body

PAGE_BYTES = 64 << 20


def listed_names(client: SourceClient, url: str, subject: str, seconds: float) -> list[str]:
    """The links of a directory's index page directly below it, folders with / at their end; empty without a page.

    Raises `SourceError`.
    """
    url = url if urlsplit(url).path.endswith("/") else f"{url}/" if "?" not in url else url
    with client.open("GET", url, {}, subject, seconds_left=seconds) as response:
        if response.status != 200 or "html" not in response.headers.get("Content-Type", ""):
            return []
        content = whole_body(response, url, subject, PAGE_BYTES, seconds)
    parser = _Links()
    parser.feed(content.decode("utf-8", "replace"))
    base = urlsplit(url)._replace(query="", fragment="").geturl()
    inner = (urljoin(base, link).partition("?")[0].partition("#")[0] for link in parser.links)
    below = (unquote(link.removeprefix(base)) for link in inner if link.startswith(base) and link != base)
    return sorted({link for link in below if "/" not in link.rstrip("/")})


def has_file(client: SourceClient, url: str, subject: str, seconds: float) -> bool:
    """Whether a file exists, by HEAD, or by a GET of one byte if HEAD is refused. Raises `SourceError`.

    A page in HTML is no file of a dataset: some servers answer with one, and status 200, to every name.
    """
    for method, headers in (("HEAD", {}), ("GET", {"Range": "bytes=0-0"})):
        with client.open(method, url, headers, subject, seconds_left=seconds) as response:
            if response.status in (200, 206):
                return "html" not in response.headers.get("Content-Type", "")
            if response.status in (404, 410):
                return False
    return False


def whole_body(response: BaseHTTPResponse, url: str, subject: str, limit: int, seconds: float) -> bytes:
    """All bytes of an answer. Raises `PermanentSourceError` if there are more than `limit`."""
    content = bytearray()
    for piece in body(response, redact(url), seconds):
        content += piece
        if len(content) > limit:
            raise PermanentSourceError(subject, found=f"more than {limit:,} bytes", expected="at most so many")
    return bytes(content)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
