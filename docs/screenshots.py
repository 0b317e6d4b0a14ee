"""Takes the screenshots of Dagster's UI for docs/images again: a load of sample shards, from the first shard to the
reports.

Run it with `make screenshots`. It needs Chromium and `playwright`, works in a temporary folder, and takes some minutes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets_tests.automation.browser import (
    chromium_path,
    materialize,
    open_browser,
    open_graph,
    open_markdown,
    save_picture,
)
from laion_assets_tests.automation.services import Services, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = Path(__file__).resolve().parent / "images"
SHARDS, ROWS = 8, 2_000
CORRUPT = 2
MINUTES = 15
DATASET = f"""\
name = "sample"
shards = {SHARDS}
dimension = 512
clip_model = "sample"
[[sources]]
url = "{{data_dir}}/sample"
"""


def main() -> None:
    """Loads the sample with one corrupt shard, and takes four screenshots during the load."""
    if chromium_path() is None:
        sys.exit("Chromium is needed: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="laion-screenshots-") as name:
        folder = Path(name)
        services = _services(folder)
        try:
            services.start_webserver()
            services.start_daemon()
            with open_browser(services.url) as page:
                _take_pictures(page, services, folder)
        finally:
            services.stop()


def _services(folder: Path) -> Services:
    """A Dagster instance with sample shards, one of which has a truncated file."""
    for shard in range(SHARDS):
        write_sample_shard(folder / "data" / "sample", shard, ROWS)
    (folder / "sample.toml").write_text(DATASET, encoding="utf-8")
    environment = {
        "LAION_DATASET": str(folder / "sample.toml"),
        "LAION_DATA_DIR": str(folder / "data"),
        "LAION_INDEX_FIRST": str(SHARDS - 1),
        "LAION_HNSW_M": "16",
        "LAION_HNSW_EF_CONSTRUCTION": "64",
    }
    return Services(folder / "home", environment)


def _take_pictures(page: Page, services: Services, folder: Path) -> None:
    images = folder / "data" / "sample" / "img_emb" / f"img_emb_{CORRUPT}.npy"
    images.write_bytes(images.read_bytes()[:-1000])
    backfill = services.launch_backfill(list(CHAIN), [str(shard) for shard in range(SHARDS)])

    # The backfill's page in the middle of the backfill: the corrupt shard has failed, others are loaded, run or wait.
    page.goto("/assets/clickhouse_partition?view=partitions")
    _when_partitions(page, at_least=SHARDS // 2)
    page.goto(f"/runs/b/{backfill}")
    page.get_by_text("clickhouse_partition").first.wait_for()
    page.get_by_text("% completed").first.wait_for()
    save_picture(page, IMAGES / "backfill.png")

    # The milestone is reached without the corrupt shard. The index and the recall report then start automatically.
    open_markdown(page, "recall_report", timeout=MINUTES * 60_000)
    _widen(page)
    save_picture(page, IMAGES / "recall_report.png")
    shutil.copy(folder / "data" / "recall" / "recall.png", IMAGES / "recall_plot.png")

    # The report and the graph, while the corrupt shard is still shown.
    materialize(page, "load_report")
    open_markdown(page, "load_report", timeout=MINUTES * 60_000)
    page.get_by_role("dialog").locator('img[src^="data:image/png;base64,"]').wait_for()
    _widen(page)
    save_picture(page, IMAGES / "load_report.png")
    open_graph(page)
    page.get_by_text("Hide navigation").click()
    page.get_by_role("img", name="panel_show_right").click()
    time.sleep(2)
    open_graph(page)
    page.get_by_text("load_report").first.wait_for()
    time.sleep(45)  # the UI shows the states of assets some seconds after their names, on a busy machine half a minute
    save_picture(page, IMAGES / "lineage.png")


def _when_partitions(page: Page, *, at_least: int) -> None:
    """Waits until at least this many partitions are materialized."""

    def there() -> bool | None:
        shown = page.get_by_text("Materialized (").first.inner_text()
        return int(shown.partition("(")[2].rstrip(")")) >= at_least or None

    wait_for(there, seconds=MINUTES * 60, what=f"the loading of {at_least} shards")


def _widen(page: Page) -> None:
    """Opens a report's dialog and makes it as large as the window."""
    page.add_style_tag(content="[role=dialog] { width: 1300px !important; max-width: 1300px !important; }")
    time.sleep(2)


if __name__ == "__main__":
    main()
