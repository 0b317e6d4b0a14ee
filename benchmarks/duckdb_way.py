"""Measured program: loads a shard into a DuckDB file by numpy and Arrow. It is a peer, not our code.

DuckDB does not read npy, so the three files become one Arrow table in memory first. Nothing is checked, no index is
built.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from benchmarks.raw_table import read_raw
from benchmarks.stage import StageReport, run_step

FILE = "laion.duckdb"


def load(folder: Path, number: str, report: StageReport) -> None:
    """Loads the raw files in `folder` into a table of a database file in the same folder."""
    with report.phase("read all"):
        raw = read_raw(folder, number)
    with report.phase("insert"), importlib.import_module("duckdb").connect(str(folder / FILE)) as db:
        db.register("raw", raw)
        db.execute("CREATE TABLE laion AS SELECT * FROM raw")
        db.execute("CHECKPOINT")


def inspect(folder: Path, _number: str, report: StageReport) -> None:
    """Describes DuckDB's table as benchmarks.engine describes ClickHouse's tables."""
    with importlib.import_module("duckdb").connect(str(folder / FILE), read_only=True) as db:
        sums = ", ".join(f"sum(list_sum({name}::DOUBLE[]))" for name in ("image_embedding", "text_embedding"))
        rows, urls, images, texts = db.execute(f"SELECT count(*), sum(strlen(url)), {sums} FROM laion").fetchone()
    checksum = f"{urls} {images!r} {texts!r}"
    report.say(rows=rows, table_bytes=(folder / FILE).stat().st_size, checksum=checksum)


if __name__ == "__main__":
    run_step(load=load, inspect=inspect)
