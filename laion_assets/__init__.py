"""LAION's embeddings as a Dagster asset graph: `search` asks its table, `EmbeddingDataset` puts it in your project."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laion_assets.api import search
    from laion_assets.component import EmbeddingDataset

__all__ = ["EmbeddingDataset", "search"]


def __getattr__(name: str) -> object:
    """Each name is imported when it is first used: Dagster starts without polars, and `search` without Dagster."""
    if name == "search":
        from laion_assets.api import search

        return search
    if name == "EmbeddingDataset":
        from laion_assets.component import EmbeddingDataset

        return EmbeddingDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of this package, also those that were not imported yet: Dagster looks for components among them."""
    return sorted({*globals(), *__all__})
