"""Benchmark: fetches three large files from a loopback server, ours compared with curl, and with cut connections."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import Bench, Command, Peer, Round, Spread, compare, figure, inside, ratio, spread
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table

ROWS, QUICK_ROWS = 1_000_448, 48_000
DIMENSION = 512
CUTS = 10
"""The server closes a connection after a tenth of a file, which is 100 MB for files as large as LAION's."""

OURS, OURS_CUT, CURL, CURL_SYNCED = "ours", "ours, connections cut", "curl --parallel", "curl --parallel, then sync"

ABOUT = """\
Three files of {size:.0f} MB, fetched in parallel from a server on loopback that sends by `sendfile`, to the same disk.
Ours checks the files and writes them to the disk (fsync) before it gives them their names. curl does neither, so it is
also measured with a `sync` of its files after it. Memory is the peak of anonymous memory during the fetch, minus that
before the first byte. In the last run the server closes each connection after {cut:.0f} MB. The server counts the bytes
that it sends."""


def make_files(folder: Path, rows: int) -> list[Path]:
    """The three files of a shard of `rows` rows. Each file has a valid beginning and end, and a hole between them."""
    names = ("img_emb_0.npy", "text_emb_0.npy", "metadata_0.parquet")
    paths = [folder / name for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fetch.toml").write_text(f'name = "fetch"\nshards = 1\ndimension = {DIMENSION}\n', encoding="utf-8")
    size = 128 + rows * DIMENSION * 2
    for path in paths:
        with path.open("wb") as file:
            if path.suffix == ".npy":
                header = {"descr": "<f2", "fortran_order": False, "shape": (rows, DIMENSION)}
                np.lib.format.write_array_header_1_0(file, header)
            else:
                file.write(b"PAR1")
            file.truncate(size)
            if path.suffix == ".parquet":
                file.seek(size - 8)
                file.write((64).to_bytes(4, "little") + b"PAR1")
    return paths


@contextmanager
def served(folder: Path, cut_bytes: int) -> Iterator[str]:
    """Starts a server for that folder in another process. Yields its URL."""
    command = python("benchmarks.fetch_server", folder, cut_bytes)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def our_peer(name: str, url: str, source: Path, paths: list[Path], cut: str = "") -> Peer:
    """Our fetch of the shard."""
    return Peer(
        name,
        lambda folder: {"fetch": python("benchmarks.fetch_ours", "fetch", source / "fetch.toml", url + cut, folder)},
        paths,
        lambda _: python("benchmarks.fetch_ours", "served", url),
    )


def curl_peer(name: str, url: str, paths: list[Path], *, synced: bool) -> Peer:
    """curl's fetch of the same files."""

    def prepare(folder: Path) -> dict[str, Command]:
        wanted = [part for path in paths for part in ("-o", str(folder / path.name), f"{url}/{path.name}")]
        fetch = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-immediate", *wanted]
        if not synced:
            return {"fetch": fetch}
        sync = ["sync", *(str(folder / path.name) for path in paths)]
        return {"fetch and sync": ["sh", "-c", f"{shlex.join(fetch)} && {shlex.join(sync)}"]}

    return Peer(name, prepare, paths, lambda _: python("benchmarks.fetch_ours", "served", url))


def memory_over_base(one: Round) -> float:
    """The peak of anonymous memory during the fetch, minus that before it, in MB."""
    measured = one.stages["fetch"]
    return (measured.phase_peaks["fetch"] - float(measured.result["base_bytes"])) / 1e6


def run(bench: Bench) -> Section:
    """Runs the benchmark."""
    rows = bench.rows(ROWS, QUICK_ROWS)
    source = bench.scratch / f"files_of_{rows}"
    paths = make_files(source, rows)
    size, total = paths[0].stat().st_size, sum(path.stat().st_size for path in paths)
    with served(source, size // CUTS) as url:
        peers = [our_peer(OURS, url, source, paths)]
        peers += [curl_peer(CURL, url, paths, synced=False), curl_peer(CURL_SYNCED, url, paths, synced=True)]
        rounds = compare(bench, peers)
        sys.stderr.write("  connections are cut: this run takes long, since the fetch waits before each new try\n")
        rounds |= compare(replace(bench, runs=1), [our_peer(OURS_CUT, url, source, paths, "/cut")])
    served_cut = Spread.of([one.figure("served") / total for one in rounds[OURS_CUT]])
    figures = [
        Figure("our throughput / curl's", ratio(rounds, CURL, OURS, inside), sign="≥", goal=0.8),
        Figure("our throughput / curl's with sync", ratio(rounds, CURL_SYNCED, OURS, inside), sign="≥", goal=0.8),
        Figure(
            "our memory above that before the fetch", spread(rounds, OURS, memory_over_base), "MB", goal=100, form=".0f"
        ),
        Figure("connections cut: bytes served / bytes of the files", served_cut, goal=1.05, form=".4f"),
        Figure("our throughput", spread(rounds, OURS, lambda one: total / inside(one) / 1e6), "MB/s", form=",.0f"),
        Figure("connections cut: tries", spread(rounds, OURS_CUT, figure("tries")), form=".0f"),
    ]
    tables = {"Time and memory": stages_table(rounds)}
    return Section("fetch", ABOUT.format(size=size / 1e6, cut=size / CUTS / 1e6), figures, tables, rounds)
