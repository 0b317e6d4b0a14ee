"""Benchmark: the best encoding of a merged file: bytes per row, and the cost to write and to read the file.

As a program it writes and reads one file in one encoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TypeAlias

from benchmarks.engine import opened
from benchmarks.harness import Bench, Command, Peer, Rounds, Value, compare, figure, ratio, spread
from benchmarks.process import python
from benchmarks.report import Figure, Section
from benchmarks.shards import merged_file
from benchmarks.stage import StageReport
from laion_assets.shard.merge import BLOCK_ROWS

ROWS, QUICK_ROWS = 100_000, 5_000
VECTORS = ("image_embedding", "text_embedding")
COMPRESSIONS = ("zstd-1", "zstd-3", "lz4", "none")
ROW_GROUPS = (2_048, 4_096, 8_192, 16_384)
OURS = f"zstd-1, split, {BLOCK_ROWS:,}"

ABOUT = """\
{rows:,} rows, both vectors as float32 lists. One writer writes the file from memory. Then ClickHouse reads all of it
with two threads and discards the rows. *split* is the encoding BYTE_STREAM_SPLIT for the vectors, *plain* is PLAIN.
Ours is *{ours}*."""


def write(source: Path, target: Path, compression: str, split: bool, group: int, report: StageReport) -> None:
    """Writes the rows of a merged file again, as the merge does: one call for each row group of `group` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: pa.Table = pq.read_table(source).combine_chunks()
    kind, _, level = compression.partition("-")
    with (
        report.phase("write"),
        pq.ParquetWriter(
            target,
            table.schema,
            compression=kind,
            compression_level=int(level) if level else None,
            use_dictionary=["NSFW"],
            write_statistics=["id"],
            column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in VECTORS} if split else None,
            store_schema=False,
        ) as writer,
    ):
        for first in range(0, table.num_rows, group):
            writer.write_table(table.slice(first, group), row_group_size=group)
    report.say(bytes_a_row=target.stat().st_size / table.num_rows)


def read(folder: Path, target: Path, report: StageReport) -> None:
    """Reads every column of every row in the engine."""
    structure = "id Int64, url String, caption String, image_embedding Array(Float32), text_embedding Array(Float32)"
    with opened(folder) as client, report.phase("read"):
        client.query(
            "SELECT sum(ignore(url, caption, image_embedding, text_embedding)) "
            f"FROM file('{target}', 'Parquet', '{structure}') SETTINGS max_threads = 2"
        )


Choice: TypeAlias = tuple[str, bool, int]
"""Every encoding: the compression, whether vectors are split, and the rows per row group."""


def _variants() -> Iterator[tuple[str, Choice]]:
    seen = [(compression, split, BLOCK_ROWS) for compression, split in product(COMPRESSIONS, (True, False))]
    seen += [("zstd-1", True, group) for group in ROW_GROUPS if group != BLOCK_ROWS]
    for compression, split, group in seen:
        yield f"{compression}, {'split' if split else 'plain'}, {group:,}", (compression, split, group)


def _peer(name: str, ready: Path, compression: str, split: bool, group: int) -> Peer:
    def prepare(folder: Path) -> dict[str, Command]:
        options = ["--split"] if split else []
        return {"write": python("benchmarks.merge_encodings", ready, folder, compression, group, *options)}

    return Peer(name, prepare, (ready,))


def _seconds(phase: str) -> Value:
    return lambda one: one.stages["write"].phases[phase]


def _cpu(phase: str) -> Value:
    return lambda one: one.stages["write"].phase_cpu[phase]


def _table(rounds: Rounds) -> list[list[str]]:
    rows = [
        ["compression, vectors, rows per group", "bytes per row", "write, s", "write, CPU s", "read, s", "read, CPU s"]
    ]
    for name in rounds:
        size = spread(rounds, name, figure("bytes_a_row")).median
        values = (_seconds("write"), _cpu("write"), _seconds("read"), _cpu("read"))
        times = [spread(rounds, name, value).text() for value in values]
        rows.append([f"**{name}**" if name == OURS else name, f"{size:,.0f}", *times])
    return rows


def run(bench: Bench) -> Section:
    """Runs the benchmark."""
    rows = bench.rows(ROWS, QUICK_ROWS)
    ready = merged_file(bench.scratch, rows)
    rounds = compare(bench, [_peer(name, ready, *choice) for name, choice in _variants()])
    size, writing = figure("bytes_a_row"), _seconds("write")
    fastest = min(rounds, key=lambda name: spread(rounds, name, writing).median)
    smallest = min(rounds, key=lambda name: spread(rounds, name, size).median)
    figures = [
        Figure(f"our bytes / the smallest ({smallest})", ratio(rounds, OURS, smallest, size)),
        Figure(f"our writing time / the fastest ({fastest})", ratio(rounds, OURS, fastest, writing)),
    ]
    return Section(
        "merge_encodings", ABOUT.format(rows=rows, ours=OURS), figures, {"Encodings": _table(rounds)}, rounds
    )


def main() -> None:
    """`python -m benchmarks.merge_encodings READY FOLDER COMPRESSION GROUP [--split]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ready", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("compression", choices=COMPRESSIONS)
    parser.add_argument("group", type=int)
    parser.add_argument("--split", action="store_true")
    given = parser.parse_args()
    report = StageReport()
    target = given.folder / "merged.parquet"
    write(given.ready, target, given.compression, given.split, given.group, report)
    read(given.folder, target, report)
    report.close()


if __name__ == "__main__":
    main()
