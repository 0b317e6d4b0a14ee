"""Benchmark: fetches a shard that is a part of a large Parquet file by ranges, compared with curl on the same bytes."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fetch import served
from benchmarks.harness import Bench, Command, Peer, compare, figure, inside, ratio, spread
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table
from laion_assets.file_layout import Slice
from laion_assets.shard.parquet_slice import TAIL_BYTES, ParquetSlice, footer_length, slice_parquet

GROUP_ROWS, QUICK_GROUP_ROWS = 65_536, 2_048
GROUPS, SHARES, DIMENSION = 10, 2, 768
NAME = "part_0.parquet"

OURS, CURL, CURL_SYNCED = "ours", "curl --range", "curl --range, then sync"

ABOUT = """\
Half of the row groups of a Parquet file of {file:,.0f} MB, which are {share:,.0f} MB, from a server on loopback that
sends by `sendfile`, to the same disk. Ours reads the footer first, requires the same ETag in every answer, writes a
Parquet file of the shard's rows, checks this file, and writes it to the disk (fsync). curl gets the bytes of the same
row groups by one range. It is also measured with a `sync` after it."""

TOML = f"""name = "share"
shards = {SHARES}
shards_per_file = {SHARES}
image_file = "part_{{file}}.parquet"
metadata_file = "part_{{file}}.parquet"
image_array = "vector"
has_text = false
dimension = {DIMENSION}
"""


def make_file(folder: Path, rows: int) -> Path:
    """The file. It is made if it does not exist. Its vectors are random numbers, which cannot be compressed."""
    path = folder / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "share.toml").write_text(TOML, encoding="utf-8")
    if not path.exists():
        numbers = np.random.default_rng(0).standard_normal(rows * DIMENSION).astype(np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers), DIMENSION).cast(pa.list_(pa.float32()))
        table = pa.table({"vector": lists, "url": ["https://example.org/picture.jpg"] * rows})
        temporary = path.with_suffix(".tmp")
        with pq.ParquetWriter(temporary, table.schema, use_dictionary=False, compression="none") as writer:
            for _ in range(GROUPS):
                writer.write_table(table, row_group_size=rows)
        temporary.rename(path)
    return path


def share_of(path: Path) -> ParquetSlice:
    """The part of the file that is shard 0."""
    with path.open("rb") as file:
        size = path.stat().st_size
        file.seek(size - TAIL_BYTES)
        length = footer_length(file.read(), size)
        first = size - TAIL_BYTES - length
        file.seek(first)
        return slice_parquet(file.read(length), first, Slice(0, SHARES))


def run(bench: Bench) -> Section:
    """Runs the benchmark."""
    rows = bench.rows(GROUP_ROWS, QUICK_GROUP_ROWS)
    source = bench.scratch / f"share_of_{rows}"
    path = make_file(source, rows)
    share = share_of(path)
    ranges = ",".join(f"{start}-{end - 1}" for start, end in share.ranges)
    total = sum(end - start for start, end in share.ranges)
    with served(source, path.stat().st_size) as url:

        def ours(folder: Path) -> dict[str, Command]:
            return {"fetch": python("benchmarks.fetch_ours", "fetch", source / "share.toml", url, folder)}

        def curl(folder: Path, *, synced: bool) -> dict[str, Command]:
            target = str(folder / NAME)
            fetch = ["curl", "--silent", "--show-error", "--fail", "--range", ranges, "-o", target, f"{url}/{NAME}"]
            if not synced:
                return {"fetch": fetch}
            return {"fetch and sync": ["sh", "-c", f"{shlex.join(fetch)} && {shlex.join(['sync', target])}"]}

        def counted(_: Path) -> Command:
            return python("benchmarks.fetch_ours", "served", url)

        peers = [
            Peer(OURS, ours, (path,), counted),
            Peer(CURL, lambda folder: curl(folder, synced=False), (path,), counted),
            Peer(CURL_SYNCED, lambda folder: curl(folder, synced=True), (path,), counted),
        ]
        rounds = compare(bench, peers)
    figures = [
        Figure("our rate / curl's", ratio(rounds, CURL, OURS, inside), sign="≥", goal=0.8),
        Figure("our rate / curl's with sync", ratio(rounds, CURL_SYNCED, OURS, inside), sign="≥", goal=0.8),
        Figure("bytes served to us / to curl", ratio(rounds, OURS, CURL, figure("served")), goal=1.05, form=".4f"),
        Figure("our rate", spread(rounds, OURS, lambda one: total / inside(one) / 1e6), "MB/s", form=",.0f"),
    ]
    about = ABOUT.format(file=path.stat().st_size / 1e6, share=total / 1e6)
    return Section("fetch_share", about, figures, {"Time and memory": stages_table(rounds)}, rounds)
