"""Measured program: the least work that a shard needs on this machine: plain copies, then an insert without checks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.engine import OUR_TABLE, TABLE, opened
from benchmarks.shards import SHARD
from benchmarks.stage import StageReport

COPY_BYTES = 8 << 20


def copies(raw: Path, ready: Path, target: Path, report: StageReport) -> None:
    """Reads every raw file, and copies the merged file that is ready."""
    buffer = bytearray(COPY_BYTES)
    view = memoryview(buffer)
    with report.phase("read raw files"):
        for path in sorted(raw.iterdir()):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    with report.phase("write output"), ready.open("rb", buffering=0) as file, target.open("wb", buffering=0) as out:
        while count := file.readinto(buffer):
            out.write(view[:count])
        os.fsync(out.fileno())


def insert(folder: Path, ready: Path, report: StageReport) -> None:
    """Inserts the rows of the merged file that is ready."""
    structure = (
        "id Int64, url String, caption String, NSFW String, similarity Float32, "
        "image_embedding Array(Float32), text_embedding Array(Float32)"
    )
    with report.phase("insert"), opened(folder) as client:
        client.command(OUR_TABLE)
        client.command(f"INSERT INTO {TABLE} SELECT *, {SHARD} FROM file('{ready}', 'Parquet', '{structure}')")


def main() -> None:
    """`python -m benchmarks.floor copies RAW READY TARGET`, or `insert FOLDER READY`."""
    step, *paths = sys.argv[1:]
    report = StageReport()
    if step == "copies":
        raw, ready, target = map(Path, paths)
        copies(raw, ready, target, report)
    else:
        folder, ready = map(Path, paths)
        insert(folder, ready, report)
    report.close()


if __name__ == "__main__":
    main()
