"""`laion-assets demo`: the main job on four sample shards, with nothing to set up and nothing fetched."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from laion_assets.index.cells.build import build_cells
from laion_assets.sample.shards import sample_row_counts, write_sample
from laion_assets.shard.store_errors import store_errors
from laion_assets.table.connect import connect
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.search import Asked, show_search
from laion_assets.terminal.separate_settings import demo_settings
from laion_assets.terminal.status import print_status, read_status

SHARDS = 4
ROWS = 20_000
"""Rows of the demo's full shards: 20,000, 20,000, 7,000 and 13,000, about 250 MB in the table."""

QUERY = "white clock"
"""The demo's query: two words that are in the sample's captions."""


def run_demo(folder: Path, console: Console) -> bool:
    """Writes the sample if it is missing, loads it, shows the status and a search; returns whether all succeeded."""
    started = time.perf_counter()
    settings = demo_settings(folder)
    with store_errors(f"demo in {folder}"):
        make_instance(folder / "dagster")
        _write_sample(folder / "sample", console)
    with dagster_instance() as instance:
        console.rule("load: raw files → merged Parquet → checked partitions of a ClickHouse table")
        if not load(settings, list(range(SHARDS)), instance, console, again=False):
            return False
        console.rule("index: two HNSW indexes in every partition, and their recall against exact search")
        if not build_and_measure(settings, instance, console):
            return False
        console.rule("status")
        print_status(read_status(settings, instance), console)
    console.rule("cells: rows by the cluster of their vectors, with short codes, for tables whose graphs are too large")
    with connect(settings) as db:
        build_cells(db, log=lambda line: console.print(line, highlight=False))
    console.rule("search by words: exact, then by the index, then by cells")
    for method in ("exact", "graph", "cells"):
        request = {"by": "image", "limit": 5, "exact": False, "method": method}
        request |= {"where": None, "shards": None, "ef": None}
        show_search(settings, Asked([QUERY], [], None, None, None), request, console)
    console.print(
        f"\nDone in {time.perf_counter() - started:.0f} s. To see it in Dagster's UI: make demo-ui. "
        "To search, here or in a browser:\n"
        f'  .venv/bin/laion-assets search --demo "red bicycle"\n'
        "  .venv/bin/laion-assets serve --demo",
        highlight=False,
    )
    return True


def _write_sample(folder: Path, console: Console) -> None:
    if (folder / "metadata" / f"metadata_{SHARDS - 1}.parquet").exists():
        return
    total = sum(sample_row_counts(SHARDS, ROWS))
    with Progress(console=console) as progress:
        task = progress.add_task(f"writing {SHARDS} sample shards", total=total)
        write_sample(folder, SHARDS, ROWS, progress=lambda rows: progress.advance(task, rows))
