"""The methods `cells` and `codes`, whose recall is measured. They build no table except in a copy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.schema import code_bytes, code_dimension, vector_columns
from laion_assets.index.cells.verify import cells_cover
from laion_assets.index.nodes import IndexFacts, index_facts
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.methods import Found, Question
from laion_assets.searching.cells import require_cells, search_cells
from laion_assets.searching.cells_settings import CANDIDATES, CellsSettings, default_probes
from laion_assets.searching.cells_use import cells_use
from laion_assets.searching.statement import SearchRequest
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""The default number of clusters probed is multiplied by these."""


class Codes:
    """Searches the codes of all rows."""

    name = "codes"
    in_graphs = False

    def require_whole(self, db: Database) -> IndexFacts:
        """Raises `TableError` unless the cells of each column have every loaded shard, as the table has it now."""
        return _whole(db, self.name)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002
        """Numbers of candidates a neighbour."""
        tried = (10, 20, CANDIDATES // 2, CANDIDATES, 2 * CANDIDATES)
        return [SearchSettings(multiplier=candidates) for candidates in tried]

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
        """One search of the codes."""
        return _found(db, vector, question, settings)

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """Raises `TableError` unless the plan has a shortlist of codes."""
        _require_codes(db, vector, question, settings)

    def make_cold(self, db: Database) -> bool:  # noqa: ARG002
        """False: codes are in the operating system's page cache, which we do not empty."""
        return False

    def build_in_copy(self, db: Database) -> None:
        """Builds cells of the copy's rows, unless the other method of cells has built them."""
        build_cells(db)

    def bytes_resident(self, db: Database, rows: int) -> float:
        """The codes of all vector columns. A search by cells reads only those of some clusters."""
        return rows * len(vector_columns(db)) * code_bytes(code_dimension(db))


@dataclass(frozen=True)
class Cells(Codes):
    """Searches the codes of the nearest clusters; `probes` are the numbers of clusters to try."""

    probes: tuple[int, ...]
    name = "cells"

    @classmethod
    def of(cls, db: Database) -> Cells:
        """The method for the table's own cells. Raises `TableError` if there are none, or only one cluster."""
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
    """The text with which an evaluation names what it measured, by the generation of each vector column's centroids."""
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
