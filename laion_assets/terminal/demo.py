"""`laion-assets demo`: the main job on four sample shards, with nothing to set up and nothing fetched."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from laion_assets.settings import Settings, load_settings
from laion_assets.source.sample import sample_row_counts, write_sample
from laion_assets.table.connect import connect
from laion_assets.table.search import SearchRequest, search, vector_of
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.results import print_results
from laion_assets.terminal.status import print_status, read_status

SHARDS = 4
ROWS = 20_000
"""Rows of the demo's full shards: 20,000, 20,000, 7,000 and 13,000, about 250 MB in the table."""

LIKE = 20_000_000
"""The row whose neighbours are shown: the first of shard 2."""


def run_demo(folder: Path, console: Console) -> bool:
    """Writes the sample where it is not yet, loads it, shows the status and a search; whether all went well."""
    started = time.perf_counter()
    settings = load_settings(dataset_name="sample", data_dir=folder, source=())
    make_instance(folder / "dagster")
    _write_sample(folder / "sample", console)
    with dagster_instance() as instance:
        console.rule("load: raw files → merged Parquet → checked partitions of a ClickHouse table")
        if not load(settings, list(range(SHARDS)), instance, console, again=False):
            return False
        console.rule("status")
        print_status(read_status(settings, instance), console)
    console.rule("search")
    _show_search(settings, console)
    console.print(
        f"\nDone in {time.perf_counter() - started:.0f} s. To see it in Dagster's UI: [bold]make demo-ui[/bold]; "
        f"to search: [bold]laion-assets search --like {LIKE} --demo[/bold]"
    )
    return True


def _write_sample(folder: Path, console: Console) -> None:
    if (folder / "metadata" / f"metadata_{SHARDS - 1}.parquet").exists():
        return
    total = sum(sample_row_counts(SHARDS, ROWS))
    with Progress(console=console) as progress:
        task = progress.add_task(f"writing {SHARDS} sample shards", total=total)
        write_sample(folder, SHARDS, ROWS, progress=lambda rows: progress.advance(task, rows))


def _show_search(settings: Settings, console: Console) -> None:
    with connect(settings) as db:
        vector = vector_of(db, LIKE, "image")
        result = search(db, vector, SearchRequest(by="image", limit=11, exact=True))
    query = next((found for found in result.neighbours if found.id == LIKE), result.neighbours[0])
    print_results(result, console, f"images like that of id {LIKE}: {' '.join(query.caption.split())[:60]}")
