"""`laion-assets search`: the queries of the command line, and their answers as tables, JSON or a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from laion_assets.errors import SearchError
from laion_assets.html_page import write_search_page
from laion_assets.query import Answer, Query
from laion_assets.searcher import Searcher
from laion_assets.searching.statement import SearchRequest
from laion_assets.searching.vector_file import read_vector_file
from laion_assets.settings import Settings
from laion_assets.terminal.results import print_results, results_json
from laion_assets.text_file import read_text
from laion_assets.tuned_request import request_of
from laion_assets.words import counted

MANY = 10
"""From this number on, queries are searched at the same time, and their rate is printed."""


@dataclass(frozen=True)
class Asked:
    """The queries that were asked: texts, pictures, a row's id, a vector's file, a file of texts."""

    texts: list[str]
    images: list[Path]
    like: int | None
    vector: Path | None
    texts_from: Path | None

    def queries(self) -> list[Query]:
        """The queries, texts first. Raises `SearchError` if there is none, or if a file cannot be read."""
        queries = [Query(text=text) for text in self._texts()]
        queries += [Query(image=image) for image in self.images]
        if self.like is not None:
            queries.append(Query(like=self.like))
        if self.vector is not None:
            queries.append(Query(vector=read_vector_file(self.vector)))
        if not queries:
            raise SearchError(
                "search", found="nothing to search for", expected="a text, --image, --like, --vector or --from"
            )
        return queries

    def _texts(self) -> list[str]:
        texts = [text for text in self.texts if text != "-"]
        try:
            if "-" in self.texts:
                texts += sys.stdin.read().splitlines()
            if self.texts_from is not None:
                texts += read_text(self.texts_from).splitlines()
        except (OSError, ValueError) as error:
            found = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            place = f"texts of {self.texts_from}" if self.texts_from else "texts of standard input"
            raise SearchError(place, found=found, expected="a file of texts in UTF-8, a line each") from error
        return [text for text in texts if text.strip()]


def show_search(
    settings: Settings,
    asked: Asked,
    request: Mapping[str, Any],
    console: Console,
    *,
    html: Path | None = None,
    as_json: bool = False,
) -> None:
    """Searches, and shows the answers. Raises `SearchError`, `ClipError` and `TableError`."""
    shards = request["shards"]
    wanted = request_of(
        by=request["by"],
        limit=request["limit"],
        exact=request["exact"],
        method=request["method"],
        where=request["where"],
        shards=None if shards is None else settings.dataset.shard_numbers(shards),
        settings=() if request["ef"] is None else (("hnsw_candidate_list_size_for_search", request["ef"]),),
    )
    answers = _answers(settings, asked.queries(), wanted)
    if html is not None:
        notice = f"{settings.dataset.name}: {_notice(answers[0])}"
        write_search_page(html, [(found.query.label, found.result) for found in answers], notice=notice)
        # With --json, standard output has only the JSON.
        say = Console(stderr=True) if as_json else console
        say.print(f"wrote {html}", soft_wrap=True, markup=False, highlight=False)
    for found in answers:
        if as_json:
            sys.stdout.write(
                results_json(found.result, found.query.label, found.untuned, method=found.method, why=found.why) + "\n"
            )
        elif html is None:
            print_results(found.result, console, found.query.label, _notice(found))


def _answers(settings: Settings, queries: Sequence[Query], request: SearchRequest) -> list[Answer]:
    """The answers; for many queries the rate goes to standard error."""
    with Searcher(settings) as searcher:
        if len(queries) < MANY:
            return searcher.answer(queries, request)
        batch = searcher.answer_many(queries, request)
    Console(stderr=True).print(
        f"{len(queries):,} queries encoded in {batch.encode_seconds:.1f} s, searched in {batch.search_seconds:.1f} s: "
        f"{batch.rate:,.0f} a second",
        markup=False,
        highlight=False,
    )
    return batch.answers


def _notice(found: Answer) -> str:
    """The model and method that answered, and the time for encoding and searching."""
    result = found.result
    encoded = f"encoded by {found.model} in {found.encode_seconds * 1000:.0f} ms; " if found.model else ""
    kind = "exact search" if result.exact else "search"
    chosen = "" if found.why is None else f"; method {found.method}: {found.why}"
    untuned = "" if found.untuned is None else f"; {found.untuned}"
    return (
        f"{encoded}{kind} of {result.by}_embedding took {result.seconds * 1000:.0f} ms ({result.way}){chosen}{untuned}"
    )


def show_warmth(settings: Settings, console: Console, *, as_json: bool = False) -> None:
    """Reads the graphs into ClickHouse's cache, and shows the time of the first search. Raises `TableError`."""
    with Searcher(settings) as searcher:
        found = searcher.warm()
    for one in found:
        if as_json:
            sys.stdout.write(json.dumps(asdict(one)) + "\n")
        else:
            graphs = "" if one.graphs is None else f" of {counted(one.graphs, 'graph')}"
            console.print(
                f"{one.by}_embedding: the first search{graphs} took {one.first_seconds * 1000:.0f} ms, "
                f"the second {one.second_seconds * 1000:.0f} ms",
                markup=False,
                highlight=False,
            )
