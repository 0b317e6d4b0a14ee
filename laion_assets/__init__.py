"""LAION's embeddings as a Dagster asset graph, and `search`, which asks its table. This file imports nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laion_assets.api import search

__all__ = ["search"]


def __getattr__(name: str) -> object:
    """`search` is imported when it is first used: the command line and Dagster start without polars."""
    if name == "search":
        from laion_assets.api import search

        return search
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
