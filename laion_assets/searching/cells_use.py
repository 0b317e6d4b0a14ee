"""Proves that a search used the codes of the given clusters, by the plan and by the engine's own counters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from laion_assets.index.cells.schema import GRANULE_ROWS
from laion_assets.searching.cells import MARGIN, candidates_sql, require_cells
from laion_assets.searching.cells_settings import CellsSettings
from laion_assets.searching.statement import SearchRequest, checked_vector
from laion_assets.table.database import Database

COUNTERS = ("SelectedRows", "SelectedBytes")


@dataclass(frozen=True)
class CellsUse:
    """What the statement for the candidates of one search did.

    `by_codes`: the plan has a shortlist of codes. `rows_read` and `bytes_read` are the engine's counters, including the
    centroids. `cells_rows` is the number of rows in the cells, `vector_bytes` the bytes of their vectors.
    `all_granules`: the table is so small that the candidates may be in all its granules, so counters prove nothing.
    """

    by_codes: bool
    rows_read: int
    bytes_read: int
    cells_rows: int
    vector_bytes: int
    probed: bool
    all_granules: bool

    @property
    def fault(self) -> str | None:
        """Why this does not prove that codes were used; None if it does."""
        if not self.by_codes:
            return "the plan has no shortlist of codes: whole vectors were read"
        if self.all_granules:
            return None
        if self.bytes_read >= self.vector_bytes:
            return f"{self.bytes_read:,} bytes read where all vectors of the cells take {self.vector_bytes:,}"
        if self.probed and self.rows_read >= self.cells_rows:
            return f"{self.rows_read:,} rows read where all clusters have {self.cells_rows:,}"
        return None


def cells_use(db: Database, vector: npt.ArrayLike, request: SearchRequest, settings: CellsSettings) -> CellsUse:
    """Runs the statement for a search's candidates and reads its plan and the increase of the counters.

    On a server that others use at the same time the counters increase more. Then they may fail to prove a use, but
    never prove one falsely. Raises `TableError` when there are no cells.
    """
    target = checked_vector(vector, db.settings.dataset.dimension)
    live = require_cells(db, request.by)
    rows = request.limit + MARGIN
    sql = candidates_sql(db, request, target, live, settings.probes, rows)
    engine = settings.engine_settings(request.limit, rows)
    before = _counters(db)
    db.rows(sql, settings=engine)
    rise = {name: count - before[name] for name, count in _counters(db).items()}
    plan = db.rows(f"EXPLAIN {sql}", settings=engine)
    return CellsUse(
        by_codes=any("quantized shortlist" in str(line) for (line,) in plan),
        rows_read=rise["SelectedRows"],
        bytes_read=rise["SelectedBytes"],
        cells_rows=live.rows,
        vector_bytes=2 * db.settings.dataset.dimension * live.rows,
        probed=0 < settings.probes < live.clusters,
        all_granules=settings.candidates * request.limit * GRANULE_ROWS >= live.rows,
    )


def _counters(db: Database) -> dict[str, int]:
    names = ", ".join(f"'{name}'" for name in COUNTERS)
    found = {
        str(name): int(value)
        for name, value in db.rows(f"SELECT event, value FROM system.events WHERE event IN ({names})")
    }
    return {name: found.get(name, 0) for name in COUNTERS}
