"""Many searches: first the nearest ids, by several connections, then the rows of all answers. It encodes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from laion_assets.searching.dispatch import search_by_method
from laion_assets.searching.request import SearchRequest, SearchResult
from laion_assets.searching.statement import answer_text
from laion_assets.table.connections import Connections
from laion_assets.table.database import Database

ROWS_AT_ONCE = 20_000
"""Rows whose texts one statement reads: its ids take 250 kB."""

Texts = dict[int, tuple[str, str, str]]
"""Caption, URL and NSFW flag of a row, by its id."""


def search_all(
    connections: Connections, vectors: Sequence[npt.ArrayLike], requests: Sequence[SearchRequest]
) -> list[SearchResult]:
    """The answers to many vectors, each with its own request, in order.

    A second statement reads the rows of the answers for all queries, since many queries find the same granules. As many
    searches run at the same time as the connections allow. Raises as `search_by_method` does.
    """

    def one(place: int) -> SearchResult:
        with connections.borrowed() as db:
            return search_by_method(db, vectors[place], replace(requests[place], ids_alone=True))

    with ThreadPoolExecutor(connections.size, thread_name_prefix="search") as pool:
        results = list(pool.map(one, range(len(vectors))))
    with connections.borrowed() as db:
        texts = _texts_of(db, results)
    return [_with_texts(result, texts) for result in results]


def _texts_of(db: Database, results: Sequence[SearchResult]) -> Texts:
    ids = np.unique(np.array([found.id for result in results for found in result.neighbours], dtype=np.int64))
    shards = sorted({found.shard for result in results for found in result.neighbours})
    texts: Texts = {}
    for some in _slices(ids.tolist()):
        sql = (
            f"SELECT id, caption, url, NSFW FROM {db.table} "
            f"WHERE shard IN ({', '.join(map(str, shards))}) AND id IN ({', '.join(map(str, some))})"
        )
        for row_id, *words in db.rows(sql, settings={"readonly": 2, "max_query_size": 1 << 24}, text_as_bytes=True):
            caption, url, flag = map(answer_text, words)
            texts[int(row_id)] = (caption, url, flag)
    return texts


def _slices(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), ROWS_AT_ONCE):
        yield ids[start : start + ROWS_AT_ONCE]


def _with_texts(result: SearchResult, texts: Texts) -> SearchResult:
    """The result with its texts. A row that was replaced between the two statements keeps empty texts."""
    neighbours = []
    for found in result.neighbours:
        caption, url, flag = texts.get(found.id, ("", "", ""))
        neighbours.append(replace(found, caption=caption, url=url, nsfw=flag))
    return replace(result, neighbours=neighbours)
