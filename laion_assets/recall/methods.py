"""The methods of searching whose recall is measured: the interface of a method, and the two that need no other table:
exact search and HNSW. Another method is a class with the same interface.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from laion_assets.errors import TableError
from laion_assets.index.nodes import IndexFacts, index_facts, require_whole_index
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import SearchSettings
from laion_assets.searching.nodes import use_everywhere
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.vectors import By, Vectors

EF_SEARCH = (16, 32, 64, 128, 256, 512, 1024, 2048)
GREAT_EF = 512
"""From this ef_search on the graph itself finds the rows that rescoring ranks, so few candidates are enough. With
100,000 rows in one part, i8, M 16, text→image, recall@10 was .978 at 512 with 2 candidates a neighbour (8 ms), and .994
at 1024 with 5 (13 ms). It was .994 also at 256 with 90 candidates (52 ms), and .972 at 256 with 5."""

ANSWERS = 11
"""Number of rows that are asked for: ten, and the query's own row."""


@dataclass(frozen=True)
class Question:
    """One search: the vectors to search, how many rows are wanted, and in which partitions; None means all."""

    by: By
    limit: int
    shards: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Found:
    """What one search found: ids and cosine distances, nearest first, and the seconds it took for its caller."""

    ids: list[int]
    distances: list[float]
    seconds: float


class Method(Protocol):
    """A way of searching. Each call gets the database whose table is measured, which may be a trial's."""

    @property
    def name(self) -> str:
        """One word under which figures are kept: `graph`, `exact`."""

    @property
    def in_graphs(self) -> bool:
        """Whether a row is found through its neighbours. Then a query that is itself a row of the index finds more."""

    def require_whole(self, db: Database, shards: Collection[int] | None = None) -> IndexFacts:
        """What will be measured. Raises `TableError` unless it has all rows of these partitions (None: of all), with
        the settings' parameters."""

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:
        """Search settings that make a difference if the largest part has `largest_part` rows."""

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
        """One search for a vector, (d,)."""

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """Raises `TableError` unless such a search uses what is measured, by the engine's own counters."""

    def candidates(self, settings: SearchSettings, limit: int) -> int:
        """Candidates a neighbour that a search for `limit` rows ranks by their stored vectors; 0 if it ranks none."""

    def make_cold(self, db: Database) -> bool:
        """Removes what is measured from the engine's memory; False if we may not do that."""

    def build_in_copy(self, db: Database) -> None:
        """Builds what is measured in a copy of the table that has only graphs."""

    def bytes_resident(self, db: Database, rows: int) -> float:
        """Bytes that should be in memory for a table of `rows` rows."""


class Exact:
    """Reads every vector."""

    name = "exact"
    in_graphs = False

    def require_whole(self, db: Database, shards: Collection[int] | None = None) -> IndexFacts:
        """The table itself, which is always complete."""
        return IndexFacts("none", {}, index_facts(db, shards).parts)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:  # noqa: ARG002  # there is one way
        """One empty setting: exact search has no settings."""
        return (SearchSettings(),)

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:  # noqa: ARG002
        """One scan."""
        request = SearchRequest(by=question.by, limit=question.limit, shards=question.shards, exact=True)
        return _found(db, vector, request)

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """Does nothing: a scan uses no index."""

    def candidates(self, settings: SearchSettings, limit: int) -> int:  # noqa: ARG002
        """0: every row is compared by its stored vector."""
        return 0

    def make_cold(self, db: Database) -> bool:  # noqa: ARG002
        """False: we do not empty the operating system's page cache."""
        return False

    def build_in_copy(self, db: Database) -> None:
        """Does nothing: exact search needs only the table."""

    def bytes_resident(self, db: Database, rows: int) -> float:  # noqa: ARG002
        """0: what the page cache does not hold is read from disk."""
        return 0.0


class Hnsw:
    """The vector indexes of the table, one graph for each part."""

    name = "graph"
    in_graphs = True

    def require_whole(self, db: Database, shards: Collection[int] | None = None) -> IndexFacts:
        """Raises `TableError` unless the declared indexes are those of the settings, and every part of the partitions
        has all of them."""
        return require_whole_index(db, shards)

    def settings_to_try(self, largest_part: int) -> Sequence[SearchSettings]:
        """`hnsw_grid` without settings that would compare all rows of the largest part.

        Values of ef_search end at the first that is no less than the rows: such a search reads the whole graph.
        Multipliers for rescoring are kept if their candidates are fewer than the rows.
        """
        efs = [ef for place, ef in enumerate(EF_SEARCH) if place == 0 or EF_SEARCH[place - 1] < largest_part]
        return [one for one in hnsw_grid(efs) if one.multiplier * ANSWERS < largest_part]

    def find(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> Found:
        """One search by the graphs."""
        return _found(db, vector, _by_graphs(question, settings))

    def require_use(self, db: Database, vector: Vectors, question: Question, settings: SearchSettings) -> None:
        """Raises `TableError` unless a graph of every part was searched and the plan takes rows from it."""
        use = use_everywhere(db, vector, _by_graphs(question, settings))
        if use.fault:
            raise TableError(
                f"{db.subject}, search by {question.by} at {settings}",
                found=use.fault,
                expected="a search by the index: the recall of a scan says nothing about it",
                advice="materialize vector_index, and look at its check index_is_used",
            )

    def candidates(self, settings: SearchSettings, limit: int) -> int:
        """The settings' number, or fewer: ClickHouse has at most 1,000 candidates a search."""
        return settings.multiplier_for(limit)

    def make_cold(self, db: Database) -> bool:
        """Empties the embedded engine's cache of graphs. False on a server, whose cache is for all clients."""
        if db.embedded:
            db.command("SYSTEM DROP VECTOR SIMILARITY INDEX CACHE")
        return db.embedded

    def build_in_copy(self, db: Database) -> None:
        """Does nothing: the copy has graphs already."""

    def bytes_resident(self, db: Database, rows: int) -> float:
        """The graphs of all vector columns."""
        dataset = db.settings.dataset
        a_vector = IndexParameters.of(db.settings).bytes_a_vector(dataset.dimension)
        return rows * len(dataset.vector_columns) * a_vector


def hnsw_grid(efs: Sequence[int]) -> tuple[SearchSettings, ...]:
    """Every ef_search without rescoring and with 5 candidates a neighbour; large ones with 2, the largest with more.

    20 and 90 are for graphs with few bits. 90 is the most for the eleven rows that are asked for, since ClickHouse
    allows 1,000 candidates a search.
    """
    return (
        *(SearchSettings(ef) for ef in efs),
        *(SearchSettings(ef, multiplier=2) for ef in efs if ef >= GREAT_EF),
        *(SearchSettings(ef, multiplier=5) for ef in efs),
        SearchSettings(efs[-1], multiplier=20),
        SearchSettings(efs[-1], multiplier=90),
    )


DEFAULT_GRID = hnsw_grid(EF_SEARCH)


def _by_graphs(question: Question, settings: SearchSettings) -> SearchRequest:
    return SearchRequest(
        by=question.by, limit=question.limit, shards=question.shards, settings=settings.pairs(question.limit)
    )


def _found(db: Database, vector: Vectors, request: SearchRequest) -> Found:
    result = search(db, vector, request)
    ids = [neighbour.id for neighbour in result.neighbours]
    return Found(ids, [neighbour.distance for neighbour in result.neighbours], result.seconds)
