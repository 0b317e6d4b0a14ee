"""Tests the real UI in a browser: the graph, two shards loaded by the dialog, checks by shard, reports."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from laion_assets.sample.shards import write_sample_shard
from laion_assets_tests.automation.browser import (
    SECONDS,
    chromium_path,
    materialize,
    open_browser,
    open_graph,
    open_markdown,
)
from laion_assets_tests.automation.services import Services, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
    pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium on this machine"),
]

DATASET = 'name = "three"\nshards = 3\ndimension = 512\nclip_model = "sample"\n[[sources]]\nurl = "{data_dir}/sample"\n'
UNPARTITIONED = ["vector_index", "vector_cells", "recall_report", "hnsw_tuning", "clip_encoders", "load_report"]
ROWS = 120
MILLISECONDS = 300_000.0
"""Long, because measuring recall is slow on a busy machine."""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Dagster's webserver and daemon for three small shards, with the first milestone at two."""
    folder = tmp_path_factory.mktemp("browser")
    for shard in range(3):
        write_sample_shard(folder / "data" / "sample", shard, ROWS)
    (folder / "three.toml").write_text(DATASET)
    environment = {
        "LAION_DATASET": str(folder / "three.toml"),
        "LAION_DATA_DIR": str(folder / "data"),
        "LAION_INDEX_FIRST": "2",
        "LAION_RECALL_QUERIES": "2",
        "LAION_HNSW_M": "8",
        "LAION_HNSW_EF_CONSTRUCTION": "32",
    }
    made = Services(folder / "home", environment)
    try:
        made.start_webserver()
        made.start_daemon()
        yield made
    finally:
        made.stop()


def test_two_shards_are_loaded_in_the_browser_and_all_can_be_seen(services: Services, tmp_path: Path) -> None:
    with open_browser(services.url) as page:
        try:
            _graph_shows_the_chain(page)
            _two_shards_are_loaded_by_the_dialog(page)
            _the_check_tells_by_partition(page)
            _the_recall_report_has_its_picture(page)
            _the_load_report_has_its_table(page)
        except Exception:
            page.screenshot(path=tmp_path / "failed.png")
            raise


def _graph_shows_the_chain(page: Page) -> None:
    open_graph(page)
    # The UI shortens long names in the middle, and puts zero-width spaces into others.
    names = ["remote_shard", "raw_shard", "merged_shard", "_partition", *UNPARTITIONED]
    page.wait_for_function(
        "names => names.every(name => document.body.innerText.replaceAll('\u200b', '').includes(name))", arg=names
    )


def _two_shards_are_loaded_by_the_dialog(page: Page) -> None:
    page.goto("/locations/laion_assets/jobs/load_shards")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")

    def all_are_chosen() -> bool | None:
        dialog.get_by_role("button", name="All", exact=True).click()
        return dialog.get_by_text("3 partitions").is_visible() or None

    # If clicked before the dialog has the list of partitions, the button selects none.
    wait_for(all_are_chosen, seconds=SECONDS, what="the list of partitions")
    dialog.get_by_role("button", name="Custom").click()
    dialog.get_by_role("img", name="close").last.click()
    dialog.get_by_text("2 partitions").wait_for()
    dialog.get_by_role("button", name="Launch").click()
    dialog.wait_for(state="hidden")
    page.goto("/assets/clickhouse_partition?view=partitions")
    page.get_by_text("Materialized (2)").wait_for(timeout=MILLISECONDS)
    page.get_by_text("Missing (1)").wait_for()
    page.get_by_text("Failed (0)").wait_for()


def _the_check_tells_by_partition(page: Page) -> None:
    page.goto("/assets/clickhouse_partition?view=checks")
    page.get_by_text("This is a blocking asset check.").wait_for()
    page.get_by_role("tab", name="Partitions").last.click()
    page.get_by_text("Passed (2)").wait_for()
    page.get_by_text("Execution Failed (0)").wait_for()


def _the_recall_report_has_its_picture(page: Page) -> None:
    """The daemon built index and report without a request, because two shards are the first milestone."""
    open_markdown(page, "recall_report", timeout=MILLISECONDS)
    picture = page.get_by_role("dialog").locator('img[src^="data:image/png;base64,"]')
    picture.wait_for()
    assert picture.evaluate("image => image.complete && image.naturalWidth > 300")


def _the_load_report_has_its_table(page: Page) -> None:
    materialize(page, "load_report")
    # The report contains a picture, so it is long, and the UI shows it behind a button.
    open_markdown(page, "load_report", timeout=MILLISECONDS)
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(f"2 of 3 shards loaded, {2 * ROWS} rows").first.wait_for()
    loaded = dialog.get_by_role("cell", name="loaded", exact=True)
    loaded.nth(1).wait_for()
    assert loaded.count() == 2
