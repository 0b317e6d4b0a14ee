"""Opens pages of Dagster's UI in a headless Chromium, for tests and for the screenshots of the docs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1400, 900
SECONDS = 90.0
"""Longest wait for an element of a page. The first request also loads the code location."""

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]


def chromium_path() -> str | None:
    """The path of the system's Chromium, or None."""
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@contextlib.contextmanager
def open_browser(url: str) -> Iterator[Page]:
    """Opens a page whose relative addresses start at `url`. The browser may request nothing from other hosts."""
    from playwright.sync_api import Route, sync_playwright

    def refuse_strangers(route: Route) -> None:
        if route.request.url.startswith((url, "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    # Otherwise a welcome dialog covers the first page.
    httpx.post(f"{url}/graphql", json={"query": "mutation { setNuxSeen }"}, timeout=SECONDS).raise_for_status()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=FLAGS)
        context = browser.new_context(base_url=url, viewport={"width": WIDTH, "height": HEIGHT})
        context.set_default_timeout(SECONDS * 1000)
        context.route("**/*", refuse_strangers)
        try:
            yield context.new_page()
        finally:
            browser.close()


def open_graph(page: Page) -> None:
    """Opens the lineage graph with every asset shown."""
    groups = ",".join(f"global@global:{name}" for name in ("shards", "search", "health"))
    page.goto(f"/asset-groups/?expanded={quote(groups)}")
    page.get_by_text("Global asset lineage").wait_for()
    page.get_by_role("img", name="zoom_in").wait_for()


def materialize(page: Page, asset: str) -> None:
    """Clicks *Materialize* of an unpartitioned asset whose inputs exist."""
    page.goto(f"/assets/{asset}")
    # If the page is left before it sends the request, no run is launched.
    with page.expect_response(lambda response: "mutation Launch" in (response.request.post_data or "")):
        page.get_by_role("button", name="Materialize").first.click()


def open_markdown(page: Page, asset: str, *, timeout: float) -> None:
    """Waits for a materialization of an asset and opens the Markdown report of the last one."""
    page.goto(f"/assets/{asset}?view=events")
    page.get_by_text("[Show Markdown]").first.click(timeout=timeout)
    page.get_by_role("dialog").wait_for()


def save_picture(page: Page, path: Path) -> None:
    """Saves a PNG of the page. The pointer is moved away first, so that no element is highlighted."""
    page.mouse.move(0, 0)
    page.screenshot(path=path)
