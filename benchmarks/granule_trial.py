"""Measured program: loads, indexes and searches one part with given sizes of granules and text blocks.

It compares nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.search_data import sample_table
from benchmarks.stage import StageReport
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import SearchSettings
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table import schema
from laion_assets.table.database import Database
from laion_assets.table.vectors import Vectors, draw_rows, vectors_of

QUERIES, ROUNDS = 100, 3


def main() -> None:
    """`python -m benchmarks.granule_trial FOLDER ROWS GRANULE BLOCK`. With BLOCK 0 the engine's default is used."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("rows", "granule", "block"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    schema.TEXT_BLOCK_BYTES = given.block
    report = StageReport()
    with sample_table(
        given.folder,
        given.rows,
        IndexParameters("bf16", 16, 64),
        lambda _line: None,
        granularity=given.granule,
        loading=report.phase("load"),
    ) as db:
        report.say(**_sizes(db))
        build_indexes(db)
        vectors = vectors_of(db, "text", draw_rows(db, QUERIES, seed=1)).vectors
        for name, request in _requests().items():
            report.say(**{name: _cpu_ms(db, vectors[:10] if request.exact else vectors, request)})
    report.close()


def _requests() -> dict[str, SearchRequest]:
    plain = SearchSettings(64).pairs()
    return {
        "search": SearchRequest(settings=plain),
        "nearest_100": SearchRequest(limit=100, settings=SearchSettings(128).pairs()),
        "times_5": SearchRequest(settings=SearchSettings(64, multiplier=5).pairs(10)),
        "times_20": SearchRequest(settings=SearchSettings(256, multiplier=20).pairs(10)),
        "half": SearchRequest(where="id % 2 = 0", settings=plain),
        "exact": SearchRequest(exact=True),
    }


def _sizes(db: Database) -> dict[str, float]:
    names = {"database": db.database, "table": db.settings.table}
    where = "WHERE database = {database:String} AND table = {table:String} AND active"
    disk, marks = db.one(f"SELECT sum(bytes_on_disk), sum(marks_bytes) FROM system.parts {where}", parameters=names)
    (text,) = db.one(
        f"SELECT sum(column_data_compressed_bytes) FROM system.parts_columns {where} AND type = 'String'",
        parameters=names,
    )
    return {"disk_mb": disk / 1e6, "marks_mb": marks / 1e6, "text_mb": text / 1e6}


def _cpu_ms(db: Database, vectors: Vectors, request: SearchRequest) -> float:
    """CPU milliseconds of the process per search: the best of the rounds."""
    found = []
    for _ in range(ROUNDS):
        search(db, vectors[0], request)
        used = time.process_time()
        for vector in vectors:
            search(db, vector, request)
        found.append((time.process_time() - used) / len(vectors) * 1e3)
    return min(found)


if __name__ == "__main__":
    main()
