"""The methods `cells` and `codes`, whose recall is measured. They build no table except in a copy."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.index.cells.build import build_cells
from laion_assets.index.cells.nodes import cells_facts, live_everywhere
from laion_assets.index.cells.schema import code_bytes, code_dimension, vector_columns
from laion_assets.index.cells.verify import CellsCover, cells_cover
from laion_assets.index.nodes import IndexFacts, index_facts
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.methods import Found, Question
from laion_assets.searching.cells import MARGIN, search_cells
from laion_assets.searching.cells_settings import CANDIDATES, CellsSettings, default_probes
from laion_assets.searching.cells_use import cells_use
from laion_assets.searching.statement import SearchRequest
from laion_assets.table.database import Database
from laion_assets.table.nodes import connect_to_node, nodes
from laion_assets.table.parts import partition_contents
from laion_assets.table.vectors import Vectors

FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0)
"""The default number of clusters probed is multiplied by these."""


class Codes:
    """Searches the codes of all rows."""

    name = "codes"
    in_graphs = False

    def require_whole(self, db: Database, shards: Collection[int] | None = None) -> IndexFacts:
        """Raises `TableError` unless the cells of each column have these shards (None: all loaded ones), as the table
        has them now; in a cluster, on every node."""
        return _whole(db, self.name, shards)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002
        """Numbers of candidates a neighbour."""
        tried = (10, 20, CANDIDATES // 2, CANDIDATES, 2 * CANDIDATES)
        return [SearchSettings(multiplier=candidates) for candidates in tried]

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
        """One search of the codes."""
        return _found(db, vector, question, settings)

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """Raises `TableError` unless the plan has a shortlist of codes; in a cluster, on every node with rows."""
        if db.settings.cluster is None:
            _require_codes(db, vector, question, settings)
            return
        for node in nodes(db):
            with connect_to_node(db, node) as there:
                if partition_contents(there):
                    _require_codes(there, vector, question, settings)

    def candidates(self, settings: SearchSettings, limit: int) -> int:
        """The settings' number: codes have no limit of 1,000 candidates a search."""
        return _cells_settings(settings).candidates_for(limit, limit + MARGIN)

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
    """Searches the codes of the nearest clusters; `probes` are the numbers of clusters to try, in a cluster of servers
    the same on each node."""

    probes: tuple[int, ...]
    name = "cells"

    @classmethod
    def of(cls, db: Database) -> Cells:
        """The method for the table's own cells. Raises `TableError` if there are none, or only one cluster."""
        found = live_everywhere(db)
        if found is None:
            raise TableError(db.subject, found="no cells", expected="them", advice="materialize vector_cells")
        # A node with fewer rows reads all its clusters where it has no more than are probed.
        usual = max(default_probes(live.clusters, live.rows) or live.clusters for live in found.live.values())
        clusters = max(live.clusters for live in found.live.values())
        tried = {math.ceil(usual * factor) for factor in FACTORS}
        probes = tuple(sorted(number for number in tried if number < clusters))
        if not probes:
            raise TableError(db.subject, found="one cluster", expected="several", advice="measure the method codes")
        return cls(probes)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002  # cells have few parts
        """Each number of clusters."""
        return [SearchSettings(multiplier=CANDIDATES, probes=probes) for probes in self.probes]


def _whole(db: Database, name: str, shards: Collection[int] | None) -> IndexFacts:
    covers = _covers(db, shards)
    faults = [f"{fault}{at}" for at, cover in covers for fault in cover.faults]
    if faults:
        raise TableError(
            db.subject,
            found="; ".join(faults[:3]),
            expected="every loaded shard in the cells",
            advice="materialize vector_cells, and measure again",
        )
    # A node without rows has no cells, and no generation.
    generations = {f"{cover.by}{at}": cover.generation for at, cover in covers if cover.generation}
    description, declared = cells_facts(name, db, generations)
    return IndexFacts(description, declared, index_facts(db, shards).parts)


def _covers(entry: Database, shards: Collection[int] | None) -> list[tuple[str, CellsCover]]:
    """The cells of each column; in a cluster of each node, with the text " on" and the node's name."""
    if entry.settings.cluster is None:
        return [("", cells_cover(entry, by, shards)) for by in vector_columns(entry)]
    covers = []
    for node in nodes(entry):
        with connect_to_node(entry, node) as db:
            covers += [(f" on {node.name}", cells_cover(db, by, shards)) for by in vector_columns(db)]
    return covers


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
