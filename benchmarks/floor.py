"""Benchmark: what the machine needs at least for a shard (plain copies, an unchecked insert), and ours beside it.

As a program it is one of the two parts of that floor.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.engine import OUR_TABLE, TABLE, opened
from benchmarks.harness import Bench, Command, Peer, compare, inside, ratio, wall
from benchmarks.ingest import OURS, inspection, ours_peer
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table
from benchmarks.shards import SHARD, SampleShard, merged_file, sample_shard
from benchmarks.stage import StageReport

ROWS, QUICK_ROWS = 1_000_448, 20_000
COPY_BYTES = 8 << 20
FLOOR = "floor"

ABOUT = """\
{rows:,} rows. The floor is two processes: one reads the raw files and writes as many bytes as the merged file has, with
plain reads and writes and an fsync; the other lets ClickHouse insert the same rows from a Parquet file that is ready
into a table of our shape, with the engine's own settings, in as many parts as it likes, and checks nothing."""


def copies(raw: Path, ready: Path, target: Path, report: StageReport) -> None:
    """Reads every raw file, and copies the ready file."""
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
    """Inserts from the ready file."""
    structure = (
        "id Int64, url String, caption String, NSFW String, similarity Float32, "
        "image_embedding Array(Float32), text_embedding Array(Float32)"
    )
    with report.phase("insert"), opened(folder) as client:
        client.command(OUR_TABLE)
        client.command(f"INSERT INTO {TABLE} SELECT *, {SHARD} FROM file('{ready}', 'Parquet', '{structure}')")


def floor_peer(shard: SampleShard, ready: Path) -> Peer:
    """Copies, then the insert."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        copying = python("benchmarks.floor", "copies", folder / "raw", ready, folder / "copy")
        return {"plain copies": copying, "unchecked insert": python("benchmarks.floor", "insert", folder, ready)}

    return Peer(FLOOR, prepare, (*shard.paths, ready), inspection)


def run(bench: Bench) -> Section:
    """Runs it."""
    rows = bench.rows(ROWS, QUICK_ROWS)
    shard = sample_shard(bench.scratch, rows)
    rounds = compare(bench, [floor_peer(shard, merged_file(bench.scratch, rows)), ours_peer(shard)])
    figures = [
        Figure("ours, in floors", ratio(rounds, OURS, FLOOR, wall), goal=2.5),
        Figure("the same, without start and imports", ratio(rounds, OURS, FLOOR, inside), goal=2.5),
    ]
    tables = {"Time and memory": stages_table(rounds)}
    return Section("floor", ABOUT.format(rows=rows), figures, tables, rounds)


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
