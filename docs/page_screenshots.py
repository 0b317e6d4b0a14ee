"""Takes the screenshots of the search page for docs/images again: a search by text, dark colours with filters, a phone.

Run it with `make screenshots`. It needs Chromium and `playwright`. The sample's rows have no pictures, so simple
pictures are drawn for their URLs. Every seventh picture is missing, as on the web.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from laion_assets.index.graphs import build_indexes
from laion_assets.sample.world import COLOURS
from laion_assets.service.app import SearchService
from laion_assets.service.limits import Limits
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets_tests.automation.browser import FLAGS, chromium_path
from laion_assets_tests.service.loopback import served
from laion_assets_tests.table.loaded import load_sample, sample_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

IMAGES = Path(__file__).resolve().parent / "images"
WORDS = "red bicycle"
ROWS = {0: 12_000, 1: 5_000}
GONE = 7

BICYCLE = """\
<g fill="none" stroke="{colour}" stroke-width="7" stroke-linecap="round" stroke-linejoin="round">
<circle cx="65" cy="140" r="36"/><circle cx="178" cy="140" r="36"/>
<path d="M65 140 L100 82 L160 82 L178 140 M100 82 L118 140 L65 140 M118 140 L160 82 M92 70 h22 M160 82 l-4 -20 h18"/>
</g>"""
OTHER = """\
<ellipse cx="120" cy="125" rx="58" ry="48" fill="{colour}"/><ellipse cx="120" cy="178" rx="70" ry="8" opacity=".2"/>"""
PICTURE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240"><rect width="240" height="240" fill="hsl({hue} 40% 86%)"/>
<path d="M0 {ground} q 60 -14 120 0 t 120 0 v 80 h -240 z" fill="hsl({hue} 30% 66%)"/>{subject}</svg>"""


def main() -> None:
    """Serves a small table and takes three screenshots."""
    if chromium_path() is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory(prefix="laion-screenshots-") as name, sync_playwright() as playwright:
        service = SearchService({"sample": ServedIndex("sample", _table(Path(name)), 5.0)}, Limits())
        browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=FLAGS)
        with served(service.app()) as url:
            take_pictures(browser, url)
        browser.close()


def _table(folder: Path) -> Settings:
    settings = sample_settings(folder, hnsw_m=16, hnsw_ef_construction=64)
    load_sample(settings, ROWS)
    with connect(settings) as db:
        build_indexes(db)
    return settings


def take_pictures(browser: Browser, url: str) -> None:
    """The search page of the service at `url`."""
    page = _page(browser, url, 1200, 860)
    _search(page)  # the first search reads the graphs
    page.goto("/")
    _search(page)
    page.screenshot(path=IMAGES / "search_page.png")

    dark = _page(browser, url, 1200, 860, dark=True)
    dark.get_by_text("Filters").click()
    dark.get_by_label("NSFW").select_option("UNLIKELY")
    dark.get_by_label("Condition in SQL").fill("caption ILIKE '%beach%'")
    _search(dark)
    dark.screenshot(path=IMAGES / "search_page_dark.png")

    phone = _page(browser, url, 390, 844)
    _search(phone)
    phone.screenshot(path=IMAGES / "search_page_phone.png")


def _page(browser: Browser, url: str, width: int, height: int, *, dark: bool = False) -> Page:
    def answer(route: Route) -> None:
        if route.request.url.startswith(url):
            route.continue_()
        elif zlib.crc32(route.request.url.encode()) % GONE == 0:
            route.abort()
        else:
            route.fulfill(body=drawn(route.request.url), content_type="image/svg+xml")

    context = browser.new_context(
        base_url=url, viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    context.route("**/*", answer)
    page = context.new_page()
    page.goto("/")
    return page


def _search(page: Page) -> None:
    page.get_by_role("searchbox").fill(WORDS)
    page.keyboard.press("Enter")
    page.locator("#status", has_text=" ms").wait_for()
    page.wait_for_load_state("networkidle")


def drawn(url: str) -> str:
    """An SVG picture of what the words in a sample row's URL say."""
    words = urlsplit(url).path.rpartition("/")[2].partition(".")[0].split("-")
    colour = next((COLOURS[word] for word in words if word in COLOURS), (90, 90, 100))
    subject = BICYCLE if "bicycle" in words else OTHER
    seed = zlib.crc32(url.encode())
    return PICTURE.format(
        hue=seed % 360, ground=165 + seed % 12, subject=subject.format(colour="rgb({}, {}, {})".format(*colour))
    )


if __name__ == "__main__":
    main()
