"""Tests of the search page in a real browser: words, pictures, rows, filters, keyboard, phone, dark, hostile text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from laion_assets_tests.automation.browser import FLAGS, chromium_path

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")


@contextlib.contextmanager
def opened(url: str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> Iterator[Page]:
    """Opens a page of the service; requests to other addresses, such as pictures from the web, fail."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=FLAGS)
        context = browser.new_context(
            base_url=url,
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        context.set_default_timeout(30_000)
        context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(url) else route.abort())
        page = context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        try:
            page.goto("/")
            yield page
            assert not problems
        finally:
            browser.close()


def wait_for_rows(page: Page) -> list[str]:
    """Waits for the answer and returns its captions."""
    page.locator("#status", has_text=re.compile(r"\d ms")).wait_for()
    return page.locator(".card .caption").all_inner_texts()


def test_words_give_cards_and_a_link_that_keeps_the_search(url: str) -> None:
    with opened(url) as page:
        page.get_by_role("searchbox").fill("white clock")
        page.keyboard.press("Enter")
        captions = wait_for_rows(page)
        assert len(captions) == 40
        assert not page.get_by_label("Token of this service").is_visible(), "no token is asked for here"
        assert "40 rows for “white clock”, by the index" in page.locator("#status").inner_text()
        address = page.url
        assert "text=white+clock" in address
        page.goto("about:blank")
        page.goto(address)
        assert wait_for_rows(page) == captions


def test_pictures_that_do_not_come_fold_away_and_flagged_ones_wait(url: str) -> None:
    with opened(url) as page:
        page.goto("/?text=white+clock&limit=200")
        wait_for_rows(page)
        page.locator(".picture[hidden] img[src]").first.wait_for(state="attached")
        page.locator(".facts", has_text="the picture is gone").first.wait_for()
        flagged = page.locator(".card", has=page.locator(".reveal:not([hidden])"))
        before = flagged.count()
        assert before
        flagged.first.get_by_role("button", name="Flagged").click()
        assert flagged.count() == before - 1


def test_more_like_this_and_back(url: str) -> None:
    with opened(url) as page:
        page.goto("/?text=white+clock")
        first = wait_for_rows(page)
        page.get_by_role("button", name="More like this").nth(2).click()
        page.locator("#status", has_text="rows like row").wait_for()
        likes = wait_for_rows(page)
        assert likes[0] == first[2]
        page.go_back()
        page.locator("#status", has_text="“white clock”").wait_for()
        assert wait_for_rows(page) == first


def test_a_picture_from_the_disk_is_searched(url: str, tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), "white").save(tmp_path / "white.png")
    with opened(url) as page:
        page.locator("input[name=picture]").set_input_files(tmp_path / "white.png")
        page.locator("#status", has_text="rows like white.png").wait_for()
        assert len(wait_for_rows(page)) == 40


def test_filters_become_a_condition_and_a_wrong_one_is_said(url: str) -> None:
    with opened(url) as page:
        page.get_by_role("searchbox").fill("white clock")
        page.get_by_text("Filters").click()
        page.get_by_label("Shard").fill("1")
        page.get_by_label("exact: compare every vector").check()
        page.get_by_label("Condition in SQL").fill("similarity > 0.1")
        page.get_by_role("button", name="Search").click()
        wait_for_rows(page)
        facts = page.locator(".card .facts").all_inner_texts()
        assert facts
        assert all("row 1000" in fact for fact in facts)
        page.get_by_label("Condition in SQL").fill("no_such_column = 1")
        page.get_by_role("button", name="Search").click()
        page.locator("#status.failed").wait_for()
        assert "no_such_column" in page.locator("#status").inner_text()


def test_a_filter_that_cannot_be_is_shown_and_how_many_hold_is_said(url: str) -> None:
    with opened(url) as page:
        page.goto("/?text=white+clock&similarity=2&shard=1&exact=1")
        wait_for_rows(page)
        assert page.locator("summary").inner_text() == "Filters (3 set)"
        page.locator("summary").click()
        assert not page.get_by_label("Similarity of picture").is_visible()
        page.get_by_role("searchbox").press("Enter")
        page.get_by_label("Similarity of picture").wait_for()
        assert page.evaluate("document.activeElement.name") == "similarity"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "The service does not answer"),
        ({"status": 502, "body": "<html>Bad gateway"}, "The service answered 502."),
        ({"status": 400, "json": {"error": "shard is no column"}}, "shard is no column"),
    ],
)
def test_what_fails_is_said_in_words(url: str, answer: dict[str, Any] | None, told: str) -> None:
    with opened(url) as page:
        page.route("**/knn-service", lambda route: route.fulfill(**answer) if answer else route.abort())
        page.get_by_role("searchbox").fill("white clock")
        page.keyboard.press("Enter")
        page.locator("#status.failed").wait_for()
        assert told in page.locator("#status").inner_text()


def test_text_may_be_dragged_into_the_search_box(url: str) -> None:
    with opened(url) as page:
        taken = "kind => { const data = new DataTransfer(); if (kind) data.items.add(new File(['x'], 'x.png')); "
        taken += "else data.setData('text/plain', 'words'); "
        taken += "const over = new DragEvent('dragover', { dataTransfer: data, bubbles: true, cancelable: true }); "
        taken += "return !document.body.dispatchEvent(over); }"
        assert [page.evaluate(taken, kind) for kind in (True, False)] == [True, False]


def test_all_of_it_is_reached_by_the_keyboard(url: str) -> None:
    with opened(url) as page:
        page.goto("/?text=white+clock&limit=3")
        wait_for_rows(page)
        named = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            named.add(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.name"))
        assert {"Skip to the results", "text", "Search", "picture", "Filters", "More like this"} <= named


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_light_and_dark(url: str, scheme: str) -> None:
    with opened(url, width=360, height=740, scheme=scheme) as page:
        page.goto("/?text=white+clock")
        wait_for_rows(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(22, 22, 26)" if scheme == "dark" else "rgb(255, 255, 255)")


def test_captions_and_addresses_are_text_whatever_they_hold(url: str) -> None:
    hostile = [
        {
            "id": 1,
            "similarity": 0.5,
            "caption": "<img src=x onerror=document.title='taken'>",
            "url": "javascript:alert(1)",
        },
        {"id": 2, "similarity": 0.4, "caption": "\u202eesrever", "url": "data:text/html,<script>1</script>"},
        {"id": 3, "similarity": 0.3, "caption": "", "url": "http://[broken", "NSFW": "<b>"},
    ]
    with opened(url) as page:
        page.get_by_role("heading", name="Search sample").wait_for()
        page.evaluate("rows => show(rows)", hostile)
        assert page.locator(".card").count() == 3
        assert page.locator(".card img[src=x]").count() == 0
        assert page.locator(".card a[href]").count() == 0
        assert "<img src=x" in page.locator(".card .caption").first.inner_text()
        assert page.title() == "Search sample"
