"""Tests of the service with clip-retrieval's own client and built front end, in every way that they can ask."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from laion_assets.service.app import SearchService
from laion_assets.service.limits import Limits
from laion_assets.service.served import ServedIndex
from laion_assets.settings import Settings
from laion_assets_tests.automation.browser import FLAGS, chromium_path
from laion_assets_tests.service.clip_retrieval import client_module, files_served, front_end, unpacked
from laion_assets_tests.service.conftest import LIMITS
from laion_assets_tests.service.loopback import served
from laion_assets_tests.service.test_app import ids

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Locator, Page, Route

WORDS = "white clock"
FIELDS = {"id", "similarity", "url", "caption", "NSFW", "shard"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    return unpacked(tmp_path_factory.mktemp("clip-retrieval"))


@pytest.fixture(scope="module")
def module(wheel: Path) -> ModuleType:
    """The client's module."""
    return client_module(wheel)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of the user."""
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


def client(module: ModuleType, url: str, **options: Any) -> Any:
    return module.ClipClient(f"{url}/knn-service", "sample", **options)


def test_the_client_with_its_defaults_asks_for_words(module: ModuleType, url: str) -> None:
    found = client(module, url).query(text=WORDS)
    assert [row["id"] for row in found] == ids(url, num_images=40, deduplicate=True)
    assert all(set(row) == FIELDS for row in found)
    assert all("clock" in row["caption"].lower() or "white" in row["caption"].lower() for row in found[:3])


def test_the_client_asks_for_a_picture_by_its_file_and_by_its_url(module: ModuleType, url: str, picture: Path) -> None:
    ask = client(module, url, num_images=7, deduplicate=False)
    by_file = ask.query(image=str(picture))
    assert len(by_file) == 7
    with files_served(picture.parent) as site:
        assert ask.query(image=f"{site}/red.png") == by_file
        assert "answered 404" in ask.query(image=f"{site}/gone.png")["error"]


def test_the_client_asks_for_an_embedding(module: ModuleType, url: str, loaded: Settings) -> None:
    vector = np.random.default_rng(5).normal(size=loaded.dataset.dimension).tolist()
    found = client(module, url, num_images=5, deduplicate=False).query(embedding_input=vector)
    assert [row["id"] for row in found] == ids(url, text=None, embedding_input=vector)
    refused = client(module, url).query(embedding_input=vector[:-1])
    assert str(loaded.dataset.dimension) in refused["error"]


def test_the_client_with_every_parameter(module: ModuleType, url: str) -> None:
    options = {
        "use_mclip": True,
        "aesthetic_score": 3,
        "aesthetic_weight": 0.1,
        "modality": module.Modality.TEXT,
        "num_images": 300,
        "use_safety_model": False,
        "use_violence_detector": False,
    }
    few = client(module, url, deduplicate=True, **options).query(text=WORDS)
    every = client(module, url, deduplicate=False, **options).query(text=WORDS)
    assert len(every) == 300
    assert {row["id"] for row in few} < {row["id"] for row in every}
    assert [row["id"] for row in every] == ids(url, modality="text", num_images=300)


def test_the_client_is_told_of_an_index_that_is_not_there(module: ModuleType, url: str) -> None:
    assert "there are sample" in module.ClipClient(f"{url}/knn-service", "laion5B-L-14").query(text=WORDS)["error"]


def is_problem(message: ConsoleMessage, site: str) -> bool:
    """Tells whether a console message is an error that is not about the front end's files; the wheel lacks two."""
    return message.type == "error" and not message.location["url"].startswith(site)


class Front:
    """The front end in the browser. Its elements are in a shadow root, which playwright's CSS selectors can see."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[tuple[str, int]] = []
        page.on("response", lambda answer: self.asked.append((answer.url, answer.status)))

    def pictures(self) -> Locator:
        return self.page.locator("figure img.pic")

    def search(self, action: Any) -> dict[str, Any]:
        """Does an action, waits until the page shows the answer, and returns the request and the rows."""
        with self.page.expect_response(lambda answer: "knn-service" in answer.url) as answered:
            action()
        answer = answered.value
        assert answer.status == 200, answer.text()
        rows = answer.json()
        first = rows[0]["caption"]
        self.page.wait_for_function(
            "title => document.querySelector('clip-front').shadowRoot.querySelector('img.pic')?.alt === title",
            arg=first,
        )
        return {"request": answer.request.post_data_json, "rows": rows}


@pytest.fixture
def front(wheel: Path, loaded: Settings, tmp_path: Path) -> Iterator[Front]:
    """The front end on a separate site, and a service that allows this site."""
    from playwright.sync_api import sync_playwright

    red = tmp_path / "picture.png"
    Image.new("RGB", (40, 40), "red").save(red)

    def web(route: Route) -> None:
        """Lets requests to this machine through, and answers all others with a red picture."""
        if "//127.0.0.1:" in route.request.url or route.request.url.startswith("data:"):
            route.continue_()
        else:
            route.fulfill(path=red, content_type="image/png")

    built = front_end(wheel, tmp_path, "to be known")
    with files_served(built) as site:
        limits = Limits(cors_origins=(site,), pictures=LIMITS.pictures)
        service = SearchService({"sample": ServedIndex("sample", loaded, 1.0)}, limits)
        with served(service.app()) as backend, sync_playwright() as playwright:
            # The back end's URL ends in a slash, as in the service's own config.json.
            front_end(wheel, tmp_path / "again", f"{backend}/").joinpath("config.json").replace(built / "config.json")
            browser = playwright.chromium.launch(executable_path=chromium_path(), headless=True, args=FLAGS)
            context = browser.new_context(base_url=site, viewport={"width": 1200, "height": 800})
            context.set_default_timeout(30_000)
            context.route("**/*", web)
            page = context.new_page()
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda said: problems.append(said.text) if is_problem(said, site) else None)
            try:
                page.goto("/")
                yield Front(page)
                assert problems == []
            finally:
                browser.close()


@pytest.mark.skipif(chromium_path() is None, reason="Chromium is not installed")
def test_the_front_end_searches_by_words_pictures_and_what_it_shows(front: Front, picture: Path) -> None:
    page = front.page
    page.locator("select option", has_text=re.compile("^sample$")).wait_for(state="attached")
    page.locator("#searchBar").fill(WORDS)
    by_words = front.search(lambda: page.keyboard.press("Enter"))
    assert by_words["request"]["num_result_ids"] == 3_000
    assert by_words["request"]["indice_name"] == "sample"
    shown = front.pictures().count()
    assert 0 < shown <= len(by_words["rows"])
    assert page.locator("figcaption").first.inner_text()[:10] == by_words["rows"][0]["caption"][:10]

    # The page fetches the metadata of further rows when it is scrolled.
    with page.expect_response(lambda answer: "metadata" in answer.url) as answered:
        page.mouse.wheel(0, 50_000)
    assert answered.value.status == 200
    page.wait_for_function(
        "count => document.querySelector('clip-front').shadowRoot.querySelectorAll('img.pic').length > count", arg=shown
    )

    by_picture = front.search(lambda: page.locator("#filechooser").set_input_files(picture))
    assert by_picture["request"]["image"]
    by_caption = front.search(lambda: page.locator(".subTextSearch").nth(1).dispatch_event("click"))
    assert by_caption["request"]["text"] == by_picture["rows"][1]["caption"]
    by_modality = front.search(lambda: page.locator("select", has_text="image").select_option("text"))
    assert by_modality["request"]["modality"] == "text"
    every = front.search(lambda: page.get_by_label("Hide (near) duplicate images").click())
    assert every["request"]["deduplicate"] is False
    by_url = front.search(lambda: page.goto("/?imageUrl=" + quote(page.url.partition("?")[0] + "assets/search.png")))
    assert by_url["request"]["image_url"]
    assert {status for url, status in front.asked if "knn-service" in url or "metadata" in url} == {200}
