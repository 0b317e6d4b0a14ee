"""Measured program: loads a shard into a LanceDB table by numpy and Arrow. It is a peer, not our code.

The three files become one Arrow table in memory first. Nothing is checked, no index is built.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from benchmarks.raw_table import read_raw
from benchmarks.stage import StageReport, run_step

FOLDER = "lance"


def load(folder: Path, number: str, report: StageReport) -> None:
    """Loads the raw files in `folder` into a table of a database in the same folder."""
    with report.phase("read all"):
        raw = read_raw(folder, number)
    with report.phase("insert"):
        importlib.import_module("lancedb").connect(str(folder / FOLDER)).create_table("laion", raw)


def inspect(folder: Path, _number: str, report: StageReport) -> None:
    """Describes LanceDB's table as benchmarks.engine describes ClickHouse's tables."""
    import pyarrow.compute as pc

    table = importlib.import_module("lancedb").connect(str(folder / FOLDER)).open_table("laion")
    found = table.to_arrow()
    sums = [
        pc.sum(pc.list_flatten(found[name]).cast("double")).as_py() for name in ("image_embedding", "text_embedding")
    ]
    checksum = f"{pc.sum(pc.binary_length(found['url'])).as_py()} {sums[0]!r} {sums[1]!r}"
    size = sum(path.stat().st_size for path in (folder / FOLDER).rglob("*") if path.is_file())
    report.say(rows=found.num_rows, table_bytes=size, checksum=checksum)


if __name__ == "__main__":
    run_step(load=load, inspect=inspect)
