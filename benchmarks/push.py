"""Benchmark: loads where the server reads the merged file, compared with loads where we push the file over HTTP.

The server is chDB.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.harness import Bench, Command, Peer, Round, Value, compare, figure, ratio, spread
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table
from benchmarks.shards import merged_file
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process

ROWS, MILLION_ROWS, QUICK_ROWS = 100_000, 1_000_448, 20_000
PULL, PUSH = "pull", "push"

ABOUT = """\
The merged file of {rows:,} sample rows ({size:.0f} MB) is loaded into one partition of a server, with all checks.
*pull*: the server reads the file in its user_files. *push*: we send the file as Arrow streams (compression:
{compression}, which is what we use for a server on this machine). Both use the same kind of server: the endpoint of the
tests, which is chDB behind HTTP on loopback, in a separate process on this machine. Memory is that of our process
alone. The server's CPU seconds are read from the server's process."""


def run(bench: Bench) -> Section:
    """Runs the benchmark with 100,000 rows."""
    return _run(bench, "push", bench.rows(ROWS, QUICK_ROWS))


def run_million(bench: Bench) -> Section:
    """Runs the benchmark with a shard as large as LAION's."""
    return _run(bench, "push_million", bench.rows(MILLION_ROWS, QUICK_ROWS))


def _run(bench: Bench, name: str, rows: int) -> Section:
    merged = merged_file(bench.scratch, rows)
    folder = bench.scratch / "server"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with endpoint_process(folder) as server:
            shared = server.user_files / "merged"
            shared.mkdir()
            shutil.copy(merged, shared)
            rounds = compare(bench, [_peer(PULL, server, merged), _peer(PUSH, server, merged)])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    compressions = {str(one.stages[PUSH].result["compression"]) for one in rounds[PUSH]}
    about = ABOUT.format(rows=rows, size=merged.stat().st_size / 1e6, compression=", ".join(compressions))
    figures = [
        Figure("rate of the insert, push / pull", ratio(rounds, PULL, PUSH, figure("insert")), sign="≥", goal=0.5),
        Figure("rate of the whole load, push / pull", ratio(rounds, PULL, PUSH, figure("load")), sign="≥"),
        Figure("CPU seconds of both processes, push / pull", ratio(rounds, PUSH, PULL, _both)),
        Figure(
            "rows per second, insert by push",
            spread(rounds, PUSH, lambda one: rows / one.figure("insert")),
            form=",.0f",
        ),
        Figure("memory of our process, push", spread(rounds, PUSH, _megabytes), "MB", goal=600, form=".0f"),
        Figure("memory of our process, pull", spread(rounds, PULL, _megabytes), "MB", form=".0f"),
    ]
    return Section(name, about, figures, {"Time and memory of our process": stages_table(rounds)}, rounds)


def _both(one: Round) -> float:
    return one.cpu + one.figure("server_cpu")


_megabytes: Value = lambda one: one.peak_bytes / 1e6  # noqa: E731 - as the harness writes values


def _peer(name: str, server: ServerProcess, merged: Path) -> Peer:
    def prepare(_folder: Path) -> dict[str, Command]:
        return {name: python("benchmarks.push_load", name, server.url(), server.process, merged)}

    return Peer(name, prepare, [merged])
