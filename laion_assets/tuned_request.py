"""What a search asks for, with its method and search settings: the caller's, else those of the recall report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from laion_assets.errors import SearchError
from laion_assets.query import Query
from laion_assets.recall.default_method import Choice
from laion_assets.recall.kept_report import NamedSettings
from laion_assets.searching.dispatch import EF_SEARCH
from laion_assets.searching.request import SearchRequest, checked_by, checked_method


def request_of(
    *,
    by: str,
    exact: bool,
    where: str | None,
    shards: Sequence[int] | None,
    limit: int,
    method: str | None = None,
    settings: tuple[tuple[str, object], ...] = (),
) -> SearchRequest:
    """The request of these arguments. Raises `SearchError` if `by` or the method is unknown."""
    if shards is not None and not isinstance(shards, Iterable):
        raise SearchError("shards", found=f"{shards!r}"[:40], expected="a list of whole numbers")
    numbers = None if shards is None else tuple(shards)
    way = checked_method(method, exact=exact)
    return SearchRequest(checked_by(by), limit, way == "exact", where, numbers, settings, method=way)


def tuned(request: SearchRequest, query: Query, named: NamedSettings) -> SearchRequest:
    """The request with the method and the search settings that the report named for its kind of query. A search for a
    stored row is a kind of its own.

    Settings that the caller gave take precedence over the report's. An exact search needs no settings. A given
    ef_search selects graphs.
    """
    kind = _kind(request, query)
    method = request.method or ("exact" if request.exact else _choice(request, kind, named).method)
    request = replace(request, method=method, exact=method == "exact")
    if method in ("cells", "codes"):
        return replace(request, cells=request.cells or named.cells.get(method, {}).get(kind))
    found = named.by_kind.get(kind)
    if method == "exact" or found is None:
        return request
    return replace(request, settings=tuple((dict(found.pairs(request.limit)) | dict(request.settings)).items()))


def _kind(request: SearchRequest, query: Query) -> str:
    asked_by = "text" if query.text is not None else "image"
    return f"like_by_{request.by}" if query.like is not None else f"{asked_by}_to_{request.by}"


def _choice(request: SearchRequest, kind: str, named: NamedSettings) -> Choice:
    if any(name == EF_SEARCH for name, _ in request.settings):
        return Choice("graph", "an ef_search was given")
    return named.choices.get(kind) or named.usual or Choice("graph", "nothing was measured")


def _answer_facts(request: SearchRequest, query: Query, asked: SearchRequest, named: NamedSettings) -> dict[str, Any]:
    """What an answer says about the method that was used, and about settings that were not used."""
    method = asked.method or "graph"
    own = request.method is not None or request.exact
    why = None if own else _choice(request, _kind(request, query), named).why
    return {"untuned": named.ignored if method == "graph" else None, "method": method, "why": why}


def answer_facts(
    request: SearchRequest, queries: Sequence[Query], asked: Sequence[SearchRequest], named: NamedSettings
) -> list[dict[str, Any]]:
    return [_answer_facts(request, query, one, named) for query, one in zip(queries, asked, strict=True)]
