"""Answers a checked request from an index, in the format of clip-retrieval's back end. It runs in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from laion_assets.searching.request import Neighbour
from laion_assets.service.deduplicate import first_of_each
from laion_assets.service.metrics import Metrics
from laion_assets.service.request import KnnRequest
from laion_assets.service.served import ServedIndex
from laion_assets.table.endable import Endable


@dataclass(frozen=True)
class Answered:
    """The rows of an answer, nearest first, the method that found them, and notes for the client."""

    rows: list[dict[str, Any]]
    method: str
    notes: tuple[str, ...]


def answer_knn(
    index: ServedIndex, asked: KnnRequest, picture: bytes | None, task: Endable, metrics: Metrics
) -> Answered:
    """The nearest rows: the first `num_images` with their metadata, the others with only id and similarity.

    Raises what `ServedIndex` raises.
    """
    with metrics.timed("encode"):
        query = index.query(asked, picture)
    with metrics.timed("search"):
        found = index.search(query, asked, task)
    neighbours = found.neighbours
    if asked.deduplicate and neighbours:
        with metrics.timed("deduplicate"):
            neighbours = _without_duplicates(index, asked, neighbours, task)
    rows = [
        _row(neighbour, whole=place < asked.num_images)
        for place, neighbour in enumerate(neighbours[: asked.num_result_ids])
    ]
    return Answered(rows, found.method, found.notes)


def answer_metadata(index: ServedIndex, ids: Sequence[int], task: Endable, metrics: Metrics) -> list[dict[str, Any]]:
    """The metadata of rows by id, in the order of the request; ids without a row are left out."""
    with metrics.timed("metadata"):
        found = index.metadata(ids, task)
    return [{"id": row_id, "metadata": found[row_id]} for row_id in ids if row_id in found]


def _without_duplicates(
    index: ServedIndex, asked: KnnRequest, neighbours: Sequence[Neighbour], task: Endable
) -> list[Neighbour]:
    vectors = index.vectors([neighbour.id for neighbour in neighbours], asked.by, task)
    # A row that a load has just removed has no vector any more, so it is left out.
    present = [neighbour for neighbour in neighbours if neighbour.id in vectors]
    if not present:
        return []
    kept = first_of_each(np.stack([vectors[neighbour.id] for neighbour in present]))
    return [present[place] for place in kept]


def _row(neighbour: Neighbour, *, whole: bool) -> dict[str, Any]:
    """A row as JSON. clip-retrieval's similarity is the inner product. Vectors have length 1, so it is the cosine."""
    row: dict[str, Any] = {"id": neighbour.id, "similarity": round(1.0 - neighbour.distance, 6)}
    if whole:
        row |= {
            "url": neighbour.url,
            "caption": neighbour.caption,
            "NSFW": neighbour.nsfw,
            "shard": neighbour.shard,
        }
    return row
