"""Searching from Python: `laion_assets.search`, one call of a `Searcher`. The SQL is in searching/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt

from laion_assets.query import Answer, Query
from laion_assets.searcher import Searcher
from laion_assets.searching.request import MethodName, SearchRequest
from laion_assets.settings import Settings
from laion_assets.table.vectors import By
from laion_assets.tuned_request import request_of

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image


def answer(queries: Sequence[Query], request: SearchRequest, settings: Settings) -> list[Answer]:
    """The answers to several queries, encoded together, over one connection. Raises as `Searcher.answer` does."""
    with Searcher(settings) as searcher:
        return searcher.answer(queries, request)


def search(
    text: str | None = None,
    *,
    image: str | Path | bytes | Image.Image | None = None,
    vector: npt.ArrayLike | None = None,
    like: int | None = None,
    by: By = "image",
    exact: bool = False,
    where: str | None = None,
    shards: Sequence[int] | None = None,
    limit: int = 10,
    method: MethodName | None = None,
    settings: Settings | None = None,
) -> pl.DataFrame:
    """The rows nearest to a text, a picture, a vector or a row of the table, nearest first, as a polars frame.

    The table is opened for this call and closed after it. For many searches keep a `laion_assets.Searcher`.

    Give exactly one of:

    - `text`: encoded by the dataset's CLIP model; a text longer than 77 tokens is cut.
    - `image`: a file's path or bytes, or a PIL picture.
    - `vector`: (dimension,) numbers of any length but 0.
    - `like`: the id of a row; its own vector is searched, so it is the first answer itself.

    `by` says which vectors are searched: those of the pictures ("image") or of the captions ("text"). `exact` reads
    every vector instead of using the index. `method` is exact, graph, codes or cells. Without `method` the search takes
    the cheapest method that meets the recall target, as far as `recall_report` measured it.

    `where` is a SQL condition on the table's columns and on `distance`, such as
    `"similarity > 0.3 AND NSFW = 'UNLIKELY'"`. `shards` limits the search to some shards. `limit` is 1 to 10,000.
    `settings` are read from the LAION_* variables unless they are given.

    The frame's columns: rank (Int64, from 1), distance (Float64, cosine distance, 0 to 2), caption, url (String),
    shard, id (Int64), nsfw (String). Warns when the recall report's search settings do not fit the table.

    Raises `SearchError`, `ClipError` and `TableError`, all of them `LaionError`.

        >>> laion_assets.search("a dog and a cat", limit=3)
    """
    query = Query(text=text, image=image, vector=vector, like=like)
    request = request_of(by=by, exact=exact, where=where, shards=shards, limit=limit, method=method)
    with Searcher(settings) as searcher:
        answered = searcher.answer([query], request)[0]
    return answered.framed()
