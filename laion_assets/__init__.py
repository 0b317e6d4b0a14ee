"""LAION's embeddings as a Dagster asset graph: what users import. Each name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laion_assets.api import search
    from laion_assets.component import EmbeddingDataset
    from laion_assets.searcher import Searcher

__all__ = ["EmbeddingDataset", "Searcher", "search"]


def __getattr__(name: str) -> object:
    """Dagster starts without polars, and `search` without Dagster."""
    if name == "search":
        from laion_assets.api import search

        return search
    if name == "Searcher":
        from laion_assets.searcher import Searcher

        return Searcher
    if name == "EmbeddingDataset":
        from laion_assets.component import EmbeddingDataset

        return EmbeddingDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of this package, also those that were not imported yet: Dagster looks for components among them."""
    return sorted({*globals(), *__all__})
