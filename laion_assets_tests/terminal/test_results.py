"""Tests of results in a terminal: each answer is one line, whatever its caption has and however narrow the terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from laion_assets.searching.statement import Neighbour, SearchResult
from laion_assets.terminal.results import print_results, results_json

CAPTIONS = [
    "plain",
    "[red]no style[/red] [/] [link=x]",
    "two\nlines\tand\ttabs",
    "\x1b[31mno escape\x1b[0m",
    "wide 東京 \U0001f98a " * 30,
    "",
]


def result() -> SearchResult:
    """Returns a result with each awkward caption."""
    found = [
        Neighbour(rank, 0.1 * rank, caption, f"https://example.org/{rank}", 409, 4_090_000_000 + rank, "UNLIKELY")
        for rank, caption in enumerate(CAPTIONS, start=1)
    ]
    return SearchResult(found, "image", exact=True, seconds=0.0123)


def shown(width: int, answer: SearchResult) -> str:
    """Returns what a terminal of this width shows."""
    out = io.StringIO()
    print_results(answer, Console(file=out, width=width), "near [bold]this[/bold]", "exact search [1 ms]")
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_each_answer_is_one_line_within_the_width(width: int) -> None:
    lines = shown(width, result()).splitlines()
    rows = [line for line in lines if "40900000" in line]
    assert len(rows) == len(CAPTIONS)
    assert all(cell_len(line) <= width for line in lines)


def test_captions_titles_and_notices_are_no_markup() -> None:
    text = shown(200, result())
    assert "[red]no style[/red]" in text
    assert "near [bold]this[/bold]" in text
    assert "exact search [1 ms]" in text


def test_captions_send_no_control_codes_to_the_terminal() -> None:
    assert "\x1b" not in shown(200, result())


def test_urls_are_shown_where_there_is_room() -> None:
    assert "https://example.org/1" in shown(120, result())
    assert "https://example.org/1" not in shown(80, result())


def test_no_answers_are_a_table_without_rows() -> None:
    assert "distance" in shown(80, SearchResult([], "text", exact=False, seconds=0.1))


def test_what_is_not_utf8_is_shown_with_replacement_marks() -> None:
    assert results_json(result(), "caf\udce9").encode().startswith(b'{"query": "caf\xef\xbf\xbd"')
    out = io.StringIO()
    print_results(result(), Console(file=out, width=80), "caf\udce9\x1b[2J", "notice")
    assert "caf\ufffd\ufffd[2J" in out.getvalue().encode().decode()


def test_json_holds_everything_on_one_line() -> None:
    text = results_json(result(), "near this")
    assert "\n" not in text
    found = json.loads(text)
    assert (found["query"], found["by"], found["exact"]) == ("near this", "image", True)
    assert [each["caption"] for each in found["neighbours"]] == CAPTIONS
    assert found["neighbours"][0] == {
        **{"rank": 1, "distance": 0.1, "caption": "plain", "url": "https://example.org/1"},
        **{"shard": 409, "id": 4_090_000_001, "nsfw": "UNLIKELY"},
    }


@pytest.mark.parametrize(
    ("exact", "graphs", "parts", "way"),
    [
        (True, 0, 1, "every row compared: no graph in 1 part"),
        (True, 0, 2, "every row compared: no graph in 2 parts"),
        (False, 1, 1, "by the index: 1 graph searched"),
        (False, 2, 3, "by the index: 2 graphs searched, and 1 part without a graph scanned"),
        (False, 1, 1204, "by the index: 1 graph searched, and 1,203 parts without a graph scanned"),
    ],
)
def test_counts_are_said_with_their_noun(exact: bool, graphs: int, parts: int, way: str) -> None:
    assert SearchResult([], "image", exact, 0.1, graphs=graphs, parts=parts).way == way
