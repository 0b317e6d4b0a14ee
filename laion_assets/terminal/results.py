"""Shows search results in a terminal, or as JSON. It searches nothing."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from laion_assets.searching.statement import SearchResult

WIDE = 110
"""Columns of the terminal from which on URLs are shown, too; `--json` always has them."""


def print_results(result: SearchResult, console: Console, title: str, notice: str) -> None:
    """Prints a table as wide as the terminal: rank, distance, caption, URL, shard, id; then how they were found."""
    table = Table(title=_shown(title), expand=True)
    table.add_column("", justify="right", no_wrap=True, min_width=2)
    table.add_column("distance", justify="right", no_wrap=True, min_width=8)
    table.add_column("caption", ratio=3, overflow="ellipsis", no_wrap=True)
    wide = console.width >= WIDE
    if wide:
        table.add_column("url", ratio=2, overflow="ellipsis", no_wrap=True)
    table.add_column("shard", justify="right", no_wrap=True, min_width=5)
    table.add_column("id", justify="right", no_wrap=True, min_width=max(8, len(str(_largest_id(result)))))
    for found in result.neighbours:
        # Pictures without captions are identified by their URLs.
        caption = _shown(found.caption if found.caption or wide else found.url)
        url = [_shown(found.url)] if wide else []
        table.add_row(str(found.rank), f"{found.distance:.4f}", caption, *url, str(found.shard), str(found.id))
    console.print(table)
    console.print(notice, markup=False, highlight=False)


def results_json(
    result: SearchResult, query: str, untuned: str | None = None, *, method: str | None = None, why: str | None = None
) -> str:
    """One JSON object: `query`, `by`, `exact`, `seconds`, `neighbours` with their fields; `untuned`, why the recall
    report's search settings were not used, or null; the `method`, and `why` it was chosen, null if it was asked for."""
    more = {"untuned": untuned, "method": method, "why": why}
    text = json.dumps({"query": query, **asdict(result), **more}, ensure_ascii=False)
    # Bytes of a command line that are not UTF-8 become lone surrogates, which no terminal or pipe accepts.
    return re.sub(r"[\ud800-\udfff]", "\ufffd", text)


def _shown(text: str) -> Text:
    """Text of the crawl in one line: brackets are not read as style, and control codes do not reach the terminal."""
    return Text(re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split())))


def _largest_id(result: SearchResult) -> int:
    return max((found.id for found in result.neighbours), default=0)
