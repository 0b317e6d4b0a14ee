"""Searches by the method that a request names. It chooses no method, and makes no statement."""

from __future__ import annotations

from dataclasses import replace

import numpy.typing as npt

from laion_assets.errors import SearchError
from laion_assets.searching.cells import search_cells
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.request import SearchRequest, SearchResult
from laion_assets.searching.statement import search
from laion_assets.table.database import Database

EF_SEARCH = "hnsw_candidate_list_size_for_search"


def search_by_method(db: Database, vector: npt.ArrayLike, request: SearchRequest) -> SearchResult:
    """The rows nearest to `vector`, (dimension,), by the request's method; by graphs if the request names none.

    Raises as `search` and `search_cells` do, and `SearchError` for an ef_search with another method than graphs.
    """
    if request.method in ("codes", "cells"):
        if any(name == EF_SEARCH for name, _ in request.settings):
            raise SearchError(f"search by {request.method}", found="an ef_search", expected="it with the method graph")
        settings = request.cells
        if request.method == "codes":
            settings = CellsSettings() if settings is None else replace(settings, probes=0)
        return search_cells(db, vector, request, settings)
    if request.method == "exact":
        request = replace(request, exact=True)
    return search(db, vector, request)
