"""Tests that the page of results is one file that is safe to open, whatever its captions and URLs contain."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from laion_assets.html_page import search_page, write_search_page
from laion_assets.searching.statement import Neighbour, SearchResult

AWKWARD = "</script><img src=x onerror=alert(1)> \"'&\x00\x1b[31m \u202ereversed\ud800"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Records an element."""
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Records text."""
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Returns the attributes of all elements with this tag."""
        return [attributes for name, attributes in self.found if name == tag]


def neighbour(rank: int = 1, **more: object) -> Neighbour:
    """Returns one neighbour of a result."""
    row = {"distance": 0.25, "caption": "a dog", "url": "https://example.org/dog.jpg", "shard": 0, "id": 7}
    return Neighbour(rank=rank, **{**row, "nsfw": "UNLIKELY", **more})  # type: ignore[arg-type]


def result(*neighbours: Neighbour) -> SearchResult:
    """Returns a result with these neighbours."""
    return SearchResult(list(neighbours), "image", exact=False, seconds=0.01)


def test_page_shows_queries_captions_and_distances() -> None:
    page = search_page([("a dog", result(neighbour())), ("a cat", result())], title="Found", notice="ViT-B/32")
    for text in ("a dog", "a cat", "distance 0.2500", "id 7", "Found", "ViT-B/32", "no rows"):
        assert text in page
    assert [link["href"] for link in Elements(page).of("a")] == ["https://example.org/dog.jpg"]


def test_nothing_loads_until_the_reader_asks() -> None:
    elements = Elements(search_page([("dog", result(neighbour()))]))
    assert [picture.get("src") for picture in elements.of("img")] == [None]
    assert not elements.of("link")
    (script,) = elements.of("script")
    assert "src" not in script


def test_what_comes_from_outside_is_escaped() -> None:
    rows = result(neighbour(caption=AWKWARD, url=f"https://example.org/{AWKWARD}", nsfw=AWKWARD))
    elements = Elements(search_page([(AWKWARD, rows)], title=AWKWARD, notice=AWKWARD))
    assert len(elements.of("script")) == 1
    assert len(elements.of("img")) == 1
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert "\x00" not in elements.text
    assert "\x1b" not in elements.text


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//example.org", ""])
def test_only_web_addresses_are_linked(url: str) -> None:
    elements = Elements(search_page([("dog", result(neighbour(url=url)))]))
    assert not elements.of("a")
    assert not elements.of("img")


@pytest.mark.parametrize(("flag", "closed"), [("NSFW", 1), ("UNSURE", 1), ("nsfw ", 1), ("UNLIKELY", 0), ("", 0)])
def test_flagged_rows_are_closed_until_opened(flag: str, closed: int) -> None:
    details = Elements(search_page([("dog", result(neighbour(nsfw=flag)))])).of("details")
    assert len(details) == closed
    assert all("open" not in attributes for attributes in details)


def test_page_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "pages" / "dog.html"
    write_search_page(path, [(AWKWARD, result(neighbour()))])
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["dog.html"]
