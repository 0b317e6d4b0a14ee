"""What is searched for, and the answer. This module does not search."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import numpy.typing as npt

from laion_assets.errors import SearchError
from laion_assets.searching.query_vector import checked_vector
from laion_assets.searching.request import MethodName, SearchResult

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image


@dataclass(frozen=True, eq=False)
class Query:
    """What to search for: exactly one of a text, a picture (path, bytes or PIL), a vector (dimension,), a row's id."""

    text: str | None = None
    image: str | Path | bytes | Image.Image | None = None
    vector: npt.ArrayLike | None = None
    like: int | None = None

    @property
    def label(self) -> str:
        """The query's name in a heading."""
        if self.text is not None:
            return self.text
        if isinstance(self.image, (str, Path)):
            return f"picture {Path(self.image).name}"
        return f"like id {self.like}" if self.like is not None else "a vector" if self.image is None else "a picture"

    def check(self, dimension: int) -> None:
        """Raises `SearchError` unless the query has exactly one of these, and that one is valid."""
        given = [name for name in ("text", "image", "vector", "like") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SearchError(
                "search", found=" and ".join(given) or "nothing", expected="one of text, image, vector and like"
            )
        if self.text is not None and not isinstance(self.text, str):
            raise SearchError("text", found=type(self.text).__name__, expected="a text")
        if self.text is not None and not self.text.strip():
            raise SearchError("search", found="an empty text", expected="some words")
        if self.like is not None and (isinstance(self.like, bool) or not isinstance(self.like, Integral)):
            raise SearchError("like", found=f"{self.like!r}"[:40], expected="the id of a row, a whole number")
        if self.vector is not None:
            checked_vector(self.vector, dimension)


@dataclass(frozen=True, eq=False)
class Answer:
    """The result of one query. `model` is the CLIP model that encoded it, None where nothing was encoded.

    `encode_seconds` is the query's share of the time to encode all queries of the call, including the time to load the
    model. `untuned` says why the recall report's search settings were not used, if the report does not fit the table.
    `method` is the method that was asked for or chosen. `why` is the reason for the choice, None if the method was
    asked for.
    """

    query: Query
    result: SearchResult
    model: str | None
    encode_seconds: float
    untuned: str | None = None
    method: MethodName = "graph"
    why: str | None = None

    def framed(self) -> pl.DataFrame:
        """The neighbours as a polars frame, for public functions: warns their caller with the text of `untuned`."""
        if self.untuned is not None:
            warnings.warn(self.untuned, stacklevel=3)
        return self.result.frame()


@dataclass(frozen=True, eq=False)
class Batch:
    """The answers to many queries, in order, and the seconds that encoding and searching took."""

    answers: list[Answer]
    encode_seconds: float
    search_seconds: float

    @property
    def rate(self) -> float:
        """Searches a second, without the time for encoding."""
        return len(self.answers) / self.search_seconds if self.search_seconds else 0.0
