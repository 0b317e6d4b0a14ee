"""Nearest neighbours by cells: nearest clusters, codes of their rows, candidates ranked by stored vectors, rows.

`codes` is the same without clusters: it reads the codes of all rows. Neither builds anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from laion_assets.columns import DISTANCE
from laion_assets.errors import TableError
from laion_assets.index.cells.events import LiveCells, live_cells, rows_of_loads
from laion_assets.index.cells.schema import cells_exist, cells_table, centroids_table, code_dimension
from laion_assets.searching.cells_settings import SHARE_EXPONENT, CellsSettings, default_probes
from laion_assets.searching.condition import Condition, check_condition
from laion_assets.searching.known import known_of
from laion_assets.searching.method_statements import LARGE_STATEMENTS, answer_columns
from laion_assets.searching.statement import (
    Neighbour,
    SearchRequest,
    SearchResult,
    check_request,
    checked_vector,
    search,
    typed_row,
)
from laion_assets.table.database import Database
from laion_assets.table.hidden_rows import hides_rows
from laion_assets.table.nodes import nodes
from laion_assets.table.parts import partition_contents
from laion_assets.table.replicas import by_cluster_shard, on_a_replica
from laion_assets.table.vectors import By, vector_sql

MARGIN = 3
"""Number of rows beyond the limit whose distances are computed from the table's own vectors: BFloat16 may put
neighbours whose distances differ by less than 0.0001 in another order."""

WIDENING = 4
"""If too few rows meet a condition, this many times as many clusters are probed."""


def search_cells(
    db: Database,
    vector: npt.ArrayLike,
    request: SearchRequest,
    settings: CellsSettings | None = None,
    *,
    live: LiveCells | None = None,
) -> SearchResult:
    """The rows nearest to `vector`, (dimension,), by cells; the default settings are by the table's size.

    Shards that are not in the cells, or were changed since, are scanned in the table, so that no loaded row is missed.
    A condition is checked in the cells, before the nearest rows are found. A caller that has just read the record can
    pass it as `live`, which saves 3 ms. Distances are computed from the table's vectors. If rows are hidden from this
    user, all rows of the table are compared instead. Raises `SearchError` for an
    invalid vector, limit or condition, and `TableError` when there are no cells.
    """
    if db.settings.cluster is not None:
        return _search_nodes(db, vector, request, settings)
    target = checked_vector(vector, db.settings.dataset.dimension)
    check_request(request, db.settings.dataset)
    condition = check_condition(db, request.where) if request.where else None
    started = time.perf_counter()
    live = live or require_cells(db, request.by)
    if known_of(db).hides_rows(lambda: hides_rows(db)):
        # The cells have all rows, and the table would leave out the hidden ones of the few candidates.
        return search(db, target, replace(request, settings=(), method=None))
    under_way = _Search(db, target, request, settings, live)
    under_way.scans = condition is not None and needs_vectors(condition)
    found = under_way.neighbours()
    return SearchResult(
        ranked(found, request.limit),
        request.by,
        exact=under_way.probed is None,
        seconds=time.perf_counter() - started,
        clusters=under_way.probed,
        scanned=under_way.shards_scanned,
    )


def ranked(found: Sequence[Neighbour], limit: int) -> list[Neighbour]:
    """The `limit` nearest of these rows, with their ranks from 1."""
    nearest = sorted(found, key=lambda one: one.distance)[:limit]
    return [replace(one, rank=rank) for rank, one in enumerate(nearest, start=1)]


def _search_nodes(
    entry: Database, vector: npt.ArrayLike, request: SearchRequest, settings: CellsSettings | None
) -> SearchResult:
    """The nearest rows in a cluster: one replica of each cluster shard searches its own cells, one after the other."""

    def search_node(db: Database) -> SearchResult:
        live = _cells_of(db, request.by)
        if live is None and not partition_contents(db):
            return SearchResult([], request.by, exact=False, seconds=0.0)
        return search_cells(db, vector, request, settings, live=live)

    results = [on_a_replica(entry, replicas, search_node) for replicas in by_cluster_shard(nodes(entry))]
    found = ranked([one for result in results for one in result.neighbours], request.limit)
    probed = [result.clusters for result in results if result.clusters is not None]
    return SearchResult(
        found,
        request.by,
        exact=not probed,
        seconds=sum(result.seconds for result in results),
        clusters=(sum(one for one, _ in probed), sum(every for _, every in probed)) if probed else None,
        scanned=sum(result.scanned for result in results),
        hidden_rows=any(result.hidden_rows for result in results),
    )


def require_cells(db: Database, by: By) -> LiveCells:
    """What a search of the cells reads. Raises `TableError` if the cells were never built."""
    live = _cells_of(db, by)
    if live is None:
        raise TableError(
            db.subject,
            found=f"no cells of {by} vectors",
            expected="them, for a search by cells or codes",
            advice="materialize vector_cells (LAION_INDEX=cells or both), or search with --method exact",
        )
    return live


def _cells_of(db: Database, by: By) -> LiveCells | None:
    return live_cells(db, by) if cells_exist(db) else None


def needs_vectors(condition: Condition) -> bool:
    """Whether a condition may name vectors or the distance. These differ in the cells, so the table is scanned."""
    return condition.names_distance or "_embedding" in condition.text


def candidates_sql(
    db: Database, request: SearchRequest, target: npt.NDArray[np.float32], live: LiveCells, probes: int, rows: int
) -> str:
    """The statement for the ids and shards of the `rows` nearest rows in the cells."""
    distance = f"cosineDistance(cells_vector, {vector_sql(_padded(db, target))})"
    return (
        f"SELECT id, shard, {distance} AS {DISTANCE} FROM {db.name_of(cells_table(db, request.by))} "
        f"WHERE {_conditions(db, request, target, live, probes)} ORDER BY {DISTANCE} LIMIT {rows}"
    )


def _padded(db: Database, target: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.pad(target, (0, code_dimension(db) - len(target)))


def _conditions(
    db: Database, request: SearchRequest, target: npt.NDArray[np.float32], live: LiveCells, probes: int
) -> str:
    conditions = [rows_of_loads(live)]
    if 0 < probes < live.clusters:
        conditions.append(
            f"cells_cluster IN (SELECT cluster FROM {db.name_of(centroids_table(db))} WHERE vectors = '{request.by}' "
            f"AND generation = {live.generation} "
            f"ORDER BY dotProduct(centroid, {vector_sql(_padded(db, target))}) DESC LIMIT {probes})"
        )
    if request.shards is not None:
        conditions.append(f"shard IN ({', '.join(str(int(shard)) for shard in request.shards) or 'NULL'})")
    if request.where:
        # The line break ends a comment that the condition may end with.
        conditions.append(f"({request.where}\n)")
    return " AND ".join(conditions)


class _Search:
    """One search of the cells, and of the shards that are not in them."""

    def __init__(
        self,
        db: Database,
        target: npt.NDArray[np.float32],
        request: SearchRequest,
        settings: CellsSettings | None,
        live: LiveCells,
    ) -> None:
        self._db, self._target, self._request, self._live = db, target, request, live
        self._settings = settings or CellsSettings(default_probes(live.clusters, live.rows))
        self._wanted = request.limit + MARGIN
        self.probed: tuple[int, int] | None = None
        """Number of clusters that were probed, and of all clusters; None if every row was compared."""
        self.shards_scanned = 0
        self.scans = False
        """Whether the condition can be checked in the table only."""

    def neighbours(self) -> list[Neighbour]:
        """The answers, in any order; more than were asked for if shards are scanned."""
        if self.scans:
            return self._scanned(self._request.shards)
        found = self._answers(self._candidates()) if self._live.loads else []
        shards = self._request.shards
        scanned = tuple(shard for shard in self._live.scanned if shards is None or shard in shards)
        self.shards_scanned = len(scanned)
        return [*found, *self._scanned(scanned)] if scanned else found

    def _candidates(self) -> list[tuple[int, int]]:
        """Ids and shards of the nearest rows in the cells."""
        probes = self._settings.probes
        if probes and (self._request.where or self._request.shards is not None):
            probes = self._probes_for_condition(probes)
        while True:
            rows = self._rows_of_cells(probes)
            clusters = self._live.clusters
            self.probed = (probes if 0 < probes < clusters else clusters, clusters)
            if len(rows) >= self._wanted or not 0 < probes < self._live.clusters:
                return rows
            # The clusters together have fewer rows than are wanted.
            probes *= WIDENING

    def _rows_of_cells(self, probes: int) -> list[tuple[int, int]]:
        sql = candidates_sql(self._db, self._request, self._target, self._live, probes, self._wanted)
        settings = self._settings.engine_settings(self._request.limit, self._wanted) | LARGE_STATEMENTS
        rows = self._db.rows(sql, settings=settings)
        return [(int(row_id), int(shard)) for row_id, shard, _ in rows]

    def _probes_for_condition(self, probes: int) -> int:
        """More clusters if few rows meet the condition and are in the asked shards. These rows are like a smaller
        table, which needs a larger fraction of its rows, by the same formula. Counting reads the condition's columns in
        the probed clusters."""
        conditions = _conditions(self._db, self._request, self._target, self._live, probes)
        all_rows = _conditions(self._db, SearchRequest(by=self._request.by), self._target, self._live, probes)
        table = self._db.name_of(cells_table(self._db, self._request.by))
        ((meeting, rows),) = self._db.rows(
            f"SELECT (SELECT count() FROM {table} WHERE {conditions}), (SELECT count() FROM {table} WHERE {all_rows})",
            settings={"readonly": 2, **LARGE_STATEMENTS},
        )
        share = (int(meeting) + 1) / (int(rows) + 1)
        return math.ceil(probes * math.pow(share, -SHARE_EXPONENT))

    def _answers(self, candidates: list[tuple[int, int]]) -> list[Neighbour]:
        """The nearest of these candidates, by distances computed from the table's own vectors."""
        if not candidates:
            return []
        ids = ", ".join(str(row_id) for row_id, _ in candidates)
        shards = ", ".join(sorted({str(shard) for _, shard in candidates}))
        rows = self._db.rows(
            f"SELECT cosineDistance({self._request.by}_embedding, {vector_sql(self._target)}) AS {DISTANCE}, "
            f"{answer_columns(self._request)} FROM {self._db.table} WHERE shard IN ({shards}) AND id IN ({ids}) "
            f"ORDER BY {DISTANCE} LIMIT {self._request.limit}",
            settings={"readonly": 2, **LARGE_STATEMENTS, "use_skip_indexes": 0},
            text_as_bytes=True,
        )
        return [Neighbour(0, *typed_row(row)) for row in rows]

    def _scanned(self, shards: tuple[int, ...] | None) -> list[Neighbour]:
        """The nearest rows of shards that are not in the cells, by comparing all their vectors."""
        everything = replace(self._request, shards=shards, exact=True, settings=())
        return search(self._db, self._target, everything).neighbours
