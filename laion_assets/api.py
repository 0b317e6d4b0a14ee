"""Searching from Python: `laion_assets.search`, and what the command line builds on. The SQL is in table/."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt

from laion_assets.errors import SearchError
from laion_assets.recall.kept import NamedSettings, named_settings
from laion_assets.search.statement import (
    SearchRequest,
    SearchResult,
    check_request,
    checked_by,
    checked_vector,
    vector_of,
)
from laion_assets.search.statement import search as search_table
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import Database, connect
from laion_assets.table.vectors import By

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for: one of a text, a picture (path, bytes or PIL), a vector (dimension,), a row's id."""

    text: str | None = None
    image: str | Path | bytes | Image.Image | None = None
    vector: npt.ArrayLike | None = None
    like: int | None = None

    @property
    def label(self) -> str:
        """How a heading names the query."""
        if self.text is not None:
            return self.text
        if isinstance(self.image, (str, Path)):
            return f"picture {Path(self.image).name}"
        return f"like id {self.like}" if self.like is not None else "a vector" if self.image is None else "a picture"


@dataclass(frozen=True, eq=False)
class Answer:
    """The result of one query. `model` is the CLIP model that encoded it, None where nothing was encoded.

    `encode_seconds` is the query's share of encoding all queries of the call, loading the model included. `untuned`
    says why the search settings of the recall report were not used, where there is one that does not fit the table.
    """

    query: Query
    result: SearchResult
    model: str | None
    encode_seconds: float
    untuned: str | None = None


def answer(queries: Sequence[Query], request: SearchRequest, settings: Settings) -> list[Answer]:
    """The answers to several queries, encoded together, over one connection.

    Raises `SearchError` for a query or request that cannot be answered, `ClipError` for a picture that cannot be read
    or a model that is absent or of another dimension, `TableError` when there is no table. All queries are checked and
    encoded before the table is opened, since the embedded engine belongs to one process at a time.
    """
    check_request(request, settings.dataset)
    for query in queries:
        _check(query)
        if query.vector is not None:
            checked_vector(query.vector, settings.dataset.dimension)
    started = time.perf_counter()
    vectors, model = _encoded(queries, settings)
    encoded = [query for query in queries if query.text is not None or query.image is not None]
    seconds = (time.perf_counter() - started) / max(len(encoded), 1)
    with connect(settings) as db:
        named = NamedSettings() if request.exact else named_settings(settings, db)
        return [
            Answer(
                query,
                search_table(db, _vector(db, query, vector, request.by), with_named(request, query, named)),
                None if vector is None else model,
                0.0 if vector is None else seconds,
                named.ignored,
            )
            for query, vector in zip(queries, vectors, strict=True)
        ]


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
    settings: Settings | None = None,
) -> pl.DataFrame:
    """The rows nearest to a text, a picture, a vector or a row of the table, nearest first, as a polars frame.

    Give exactly one of:

    - `text`: encoded by the dataset's CLIP model; longer than 77 tokens is cut.
    - `image`: a file's path or bytes, or a PIL picture.
    - `vector`: (dimension,) numbers of any length but 0.
    - `like`: the id of a row; its own vector is searched, so it is the first answer itself.

    `by` says which vectors are searched: those of the pictures ("image") or of the captions ("text"). `exact` reads
    every vector instead of asking the index. `where` is a SQL condition on the table's columns, such as
    `"similarity > 0.3 AND NSFW = 'UNLIKELY'"`, `shards` limits the search to some, `limit` is 1 to 1,000. `settings`
    are those of the LAION_* variables unless given.

    The frame's columns: rank (Int64, from 1), distance (Float64, cosine distance, 0 to 2), caption, url (String),
    shard, id (Int64), nsfw (String). Warns where the recall report's search settings do not fit the table.

    Raises `SearchError`, `ClipError` and `TableError`, all of them `LaionError`.

        >>> laion_assets.search("a dog and a cat", limit=3)
    """
    request = SearchRequest(
        by=checked_by(by), limit=limit, exact=exact, where=where, shards=None if shards is None else tuple(shards)
    )
    query = Query(text=text, image=image, vector=vector, like=like)
    answered = answer([query], request, settings or load_settings())[0]
    if answered.untuned is not None:
        warnings.warn(answered.untuned, stacklevel=2)
    return frame(answered.result)


def frame(result: SearchResult) -> pl.DataFrame:
    """The neighbours of a result as a polars frame, one row each, with the columns of `search` also when empty."""
    import polars as pl

    columns: dict[str, type[pl.DataType]] = {
        "rank": pl.Int64,
        "distance": pl.Float64,
        "caption": pl.String,
        "url": pl.String,
        "shard": pl.Int64,
        "id": pl.Int64,
        "nsfw": pl.String,
    }
    return pl.DataFrame([asdict(neighbour) for neighbour in result.neighbours], schema=columns)


def tuned(request: SearchRequest, query: Query, settings: Settings, db: Database | None = None) -> SearchRequest:
    """The request with the search settings that the recall report named for this kind of query.

    Those that the caller gave stay beside the rest of them, and an exact search needs none. They are not used where
    the report measured another index than the settings name, or than `db` has, if it is given.
    """
    return request if request.exact else with_named(request, query, named_settings(settings, db))


def with_named(request: SearchRequest, query: Query, named: NamedSettings) -> SearchRequest:
    """The request with the named settings of its kind of query. A row that is searched for is a kind of its own."""
    asked_by = "text" if query.text is not None else "image"
    kind = f"like_by_{request.by}" if query.like is not None else f"{asked_by}_to_{request.by}"
    search = named.by_kind.get(kind)
    if search is None or request.exact:
        return request
    return replace(request, settings=tuple((dict(search.pairs(request.limit)) | dict(request.settings)).items()))


def _check(query: Query) -> None:
    given = [name for name in ("text", "image", "vector", "like") if getattr(query, name) is not None]
    if len(given) != 1:
        raise SearchError(
            "search", found=" and ".join(given) or "nothing", expected="one of text, image, vector and like"
        )
    if query.text is not None and not query.text.strip():
        raise SearchError("search", found="an empty text", expected="some words")


def _encoded(queries: Sequence[Query], settings: Settings) -> tuple[list[npt.ArrayLike | None], str | None]:
    """Each query's vector, None for those that have their own, and the model's name when one was asked."""
    texts = {number: query.text for number, query in enumerate(queries) if query.text is not None}
    images = {number: query.image for number, query in enumerate(queries) if query.image is not None}
    vectors: list[npt.ArrayLike | None] = [None] * len(queries)
    if not texts and not images:
        return vectors, None
    # Imported late: a search by vector or id needs neither model nor fastembed, whose import takes 0.7 s.
    from laion_assets.clip.ready import clip_model, open_encoder

    encoder = open_encoder(settings)
    for number, vector in zip(texts, encoder.encode_texts(texts.values()), strict=True):
        vectors[number] = vector
    for number, vector in zip(images, encoder.encode_images(images.values()), strict=True):
        vectors[number] = vector
    return vectors, clip_model(settings).name


def _vector(db: Database, query: Query, encoded: npt.ArrayLike | None, by: By) -> npt.ArrayLike:
    if encoded is not None:
        return encoded
    if query.like is not None:
        return vector_of(db, query.like, by)
    return checked_vector([] if query.vector is None else query.vector, db.settings.dataset.dimension)
