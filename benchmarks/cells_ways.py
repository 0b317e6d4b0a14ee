"""The methods that the benchmark of cells compares, and the measured cost of a search. It reports nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from laion_assets.recall.figures import SearchSettings
from laion_assets.searching.cells import search_cells
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

TOLERANCE = 5e-6
"""Distances may differ by this much: the engine and the matrix product compute them in float32, each within 1e-6 of the
exact value."""

GRAPH_SETTINGS = (
    *(SearchSettings(ef) for ef in (64, 256, 512, 1024)),
    *(SearchSettings(1024, multiplier=5), SearchSettings(2048, multiplier=5)),
)
"""Settings of graphs, tried in this order until one reaches the target."""


@dataclass(frozen=True)
class Way:
    """One way to search with its settings: `exact`, `cells`, `codes` or graphs."""

    method: str
    name: str
    settings: CellsSettings | SearchSettings | None = None

    def find(self, db: Database, vector: Vectors, by: By) -> tuple[list[float], float]:
        """The distances of the ten nearest rows, and the seconds that the search took."""
        if isinstance(self.settings, CellsSettings):
            result = search_cells(db, vector, SearchRequest(by=by), self.settings)
        elif self.settings is None:
            result = search(db, vector, SearchRequest(by=by, exact=True))
        else:
            result = search(db, vector, SearchRequest(by=by, settings=self.settings.pairs()))
        return [neighbour.distance for neighbour in result.neighbours], result.seconds


@dataclass(frozen=True)
class Figures:
    """The figures of a method for one kind of query: means over the queries of the kind."""

    recall: float
    half_interval: float
    cpu_ms: float
    p50_ms: float
    rows_read: float
    megabytes: float

    @property
    def low(self) -> float:
        """The lower bound of recall@10."""
        return self.recall - self.half_interval


EXACT = Way("exact", "exact")


def cells_ways(probes: int, clusters: int, candidates: Sequence[int]) -> Iterator[Way]:
    """Cells with the default number of probed clusters, with half of it and with twice as many, and codes alone."""
    for count in candidates:
        for factor in (1, 0.5, 2) if probes else ():
            settings = CellsSettings(math.ceil(probes * factor), count)
            if settings.probes < clusters:
                yield Way("cells", f"cells, {settings.probes} of {clusters}, × {count}", settings)
        yield Way("codes", f"codes, × {count}", CellsSettings(0, count))


def graph_ways(name: str) -> list[Way]:
    """Searches by graphs of these parameters."""
    return [Way(name, f"{name}: {settings}", settings) for settings in GRAPH_SETTINGS]


def ask(db: Database, by: By, vectors: Vectors, farthest: npt.NDArray[np.float64], way: Way) -> Figures:
    """Searches for every query vector, (q, d). A row counts as found if it is no farther than the tenth true
    neighbour."""
    recalls, seconds = [], []
    way.find(db, vectors[0], by)
    rows, size, cores = *_counters(db), time.process_time()
    for vector, bound in zip(vectors, farthest, strict=False):
        distances, took = way.find(db, vector, by)
        recalls.append(sum(distance <= bound + TOLERANCE for distance in distances) / 10)
        seconds.append(took)
    cores = time.process_time() - cores
    rows_now, size_now = _counters(db)
    count = len(recalls)
    return Figures(
        recall=float(np.mean(recalls)),
        half_interval=float(1.96 * np.std(recalls, ddof=1) / math.sqrt(count)) if count > 1 else 0.0,
        cpu_ms=1e3 * cores / count,
        p50_ms=1e3 * median(seconds),
        rows_read=(rows_now - rows) / count,
        megabytes=(size_now - size) / count / 1e6,
    )


def _counters(db: Database) -> tuple[int, int]:
    """Rows and bytes that the engine has read since it was opened."""
    rows, size = db.one(
        "SELECT sumIf(value, event = 'SelectedRows'), sumIf(value, event = 'SelectedBytes') FROM system.events"
    )
    return int(rows), int(size)
