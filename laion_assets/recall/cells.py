"""Searches by cells and by codes as methods whose recall is measured. They build nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.schema import code_bytes, code_dimension, vector_columns
from laion_assets.index.cells.verify import cells_cover
from laion_assets.index.cluster import IndexFacts, index_facts
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.methods import Found, Question
from laion_assets.searching.cells import require_cells, search_cells
from laion_assets.searching.cells_settings import CANDIDATES, CellsSettings, default_probes
from laion_assets.searching.cells_use import cells_use
from laion_assets.searching.statement import SearchRequest
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Of the clusters that are probed where nothing was measured."""


class Codes:
    """The codes of all rows."""

    name = "codes"
    in_graphs = False

    def require_whole(self, db: Database) -> IndexFacts:
        """Every loaded shard is in the cells of each column, as the table has it now."""
        return _whole(db, self.name)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002
        """Candidates a neighbour."""
        tried = (10, 20, CANDIDATES // 2, CANDIDATES, 2 * CANDIDATES)
        return [SearchSettings(multiplier=candidates) for candidates in tried]

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
        """One search of the codes."""
        return _found(db, vector, question, settings)

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """The plan has a shortlist of codes."""
        _require_codes(db, vector, question, settings)

    def make_cold(self, db: Database) -> bool:  # noqa: ARG002
        """Codes are page cache, which is not ours."""
        return False

    def build_in_copy(self, db: Database) -> None:
        """Cells of the copy's rows, unless the other method of cells has built them."""
        build_cells(db)

    def bytes_resident(self, db: Database, rows: int) -> float:
        """The codes of all vector columns, of which a search by cells reads those of some clusters."""
        return rows * len(vector_columns(db)) * code_bytes(code_dimension(db))


@dataclass(frozen=True)
class Cells(Codes):
    """The nearest clusters' codes; `probes` are the numbers of clusters that are tried."""

    probes: tuple[int, ...]
    name = "cells"

    @classmethod
    def of(cls, db: Database) -> Cells:
        """For the table's own cells. Raises `TableError` where there are none, or only one cluster."""
        live = require_cells(db, "image")
        usual = default_probes(live.clusters, live.rows) or live.clusters
        tried = {math.ceil(usual * factor) for factor in FACTORS}
        probes = tuple(sorted(number for number in tried if number < live.clusters))
        if not probes:
            raise TableError(db.subject, found="one cluster", expected="several", advice="measure the method codes")
        return cls(probes)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002  # cells have few parts
        """Each number of clusters."""
        return [SearchSettings(multiplier=CANDIDATES, probes=probes) for probes in self.probes]


def cells_description(name: str, generations: Mapping[By, int]) -> str:
    """How an evaluation names what it measured, by the generation of each vector column's centroids."""
    return ", ".join([name, *(f"generation {number} of {by}" for by, number in generations.items())])


def _whole(db: Database, name: str) -> IndexFacts:
    covers = [cells_cover(db, by) for by in vector_columns(db)]
    faults = [fault for cover in covers for fault in cover.faults]
    if faults:
        raise TableError(
            db.subject,
            found="; ".join(faults[:3]),
            expected="every loaded shard in the cells",
            advice="materialize vector_cells, and measure again",
        )
    return IndexFacts(
        cells_description(name, {cover.by: cover.generation for cover in covers}), {}, index_facts(db).parts
    )


def _cells_settings(settings: SearchSettings) -> CellsSettings:
    return CellsSettings(settings.probes, settings.multiplier)


def _request(question: Question) -> SearchRequest:
    return SearchRequest(by=question.by, limit=question.limit, shards=question.shards)


def _found(db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
    result = search_cells(db, vector, _request(question), _cells_settings(settings))
    ids = [neighbour.id for neighbour in result.neighbours]
    return Found(ids, [neighbour.distance for neighbour in result.neighbours], result.seconds)


def _require_codes(db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
    use = cells_use(db, vector, _request(question), _cells_settings(settings))
    if not use.by_codes:
        raise TableError(
            f"{db.subject}, search by {question.by} at {settings}",
            found=str(use.fault),
            expected="a search by codes: the recall of a scan says nothing about it",
            advice="look at the check cells_are_used",
        )
