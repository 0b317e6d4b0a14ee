"""Benchmark: the search service under load from wrk, compared with the same statements from threads without HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.process import ROOT
from benchmarks.report import Section
from benchmarks.search_data import sample_table
from benchmarks.service_server import Load, Server, environment, load, require_wrk, serving, write_bodies
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.settings import Settings

ABOUT = """\
One part of {rows:,} sample rows with graphs of both vector columns, {parameters}, embedded engine. {clients} clients of
wrk send `POST /knn-service` for 40 rows by the vector of a text. Each client sends its next request as soon as it has
an answer. A round takes {seconds:g} s. {runs} rounds are in turns with the same statements from {clients} threads of
one process without HTTP. Everything runs on this machine, so wrk takes CPU time that the service cannot use."""

QUERIES = 256
SOME = 0.1
"""The fraction of the memory trial's requests after which the memory is compared with that at the end."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks service`."""
    options = parser(__doc__, "service")
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--seconds", type=float, default=60, help="seconds of a round")
    options.add_argument("--runs", type=int, default=3, help="rounds")
    options.add_argument("--requests", type=int, default=50_000, help="requests of the memory trial")
    options.add_argument("--idle", type=int, default=100, help="connections that send no request")
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters("bf16", 16, 64))
    given = options.parse_args(arguments)
    require_wrk()
    with reported("service", ABOUT.format(**vars(given)), given) as report:
        with sample_table(report.scratch / "ours", given.rows, given.parameters, report.say) as db:
            build_indexes(db, log=report.say)
            settings = db.settings
            stored = db.rows(f"SELECT text_embedding FROM {db.table} ORDER BY id % 1009, id LIMIT {QUERIES}")
        queries = np.array([row[0] for row in stored], np.float32)
        np.save(report.scratch / "queries.npy", queries)
        script = write_bodies(queries, report.scratch)
        _first_answers(report, settings, given.runs)
        _rates(report, settings, script, given.clients, given.seconds, given.runs)
        with serving(settings) as server:
            _burdened(report, server, script, given.clients, given.seconds, given.idle)
            _memory(report, server, script, given.clients, given.requests)
    return report.section


def _first_answers(report: GrowingReport, settings: Settings, runs: int) -> None:
    """Measures the time from the start of the service to its first answer to a text, without the time that another
    process takes to open the model and the engine."""
    beside = []
    for _ in range(runs):
        with serving(settings) as server:
            beside.append(server.first_answer - _statements(report, settings, 1, 0)["open_seconds"])
            report.say(f"first answer after {server.first_answer:.2f} s, {beside[-1]:.2f} s without model and engine")
    report.figure("first answer after the start, without model and engine", beside, "s", sign="≤", goal=1.5, form=".2f")


def _rates(report: GrowingReport, settings: Settings, script: Path, clients: int, seconds: float, runs: int) -> None:
    """Measures the rate of the service and the rate of its statements alone, in turns."""
    rows = [["", "answers/s", "p50 ms", "p99 ms", "most ms", "load average"]]
    ratios, tails, errors = [], [], 0
    for number in range(runs):
        alone = _statements(report, settings, clients, seconds)["rate"]
        rows.append([f"{clients} threads, no HTTP, round {number + 1}", f"{alone:.1f}", "", "", "", _busy()])
        with serving(settings) as server:
            load(server, script, clients, min(seconds, 5))
            found = load(server, script, clients, seconds)
        rows.append(_row(f"{clients} clients of the service, round {number + 1}", found))
        report.say(f"{alone:.1f} statements a second alone, {found}")
        ratios.append(found.rate / alone)
        tails.append(found.p99 / found.p50)
        errors += found.errors
        report.table("rates", rows)
    report.figure("rate of the service / rate of its statements alone", ratios, goal=0.8, form=".2f")
    report.figure("p99 / p50", tails, sign="≤", goal=5, form=".2f")
    report.figure("requests without an answer of status 200", errors, sign="≤", goal=0, form=".0f")


def _burdened(report: GrowingReport, server: Server, script: Path, clients: int, seconds: float, idle: int) -> None:
    """Measures the rate while there are connections that send no request, and a client that sends one byte per
    second."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    rows = [["", "answers/s", "p50 ms", "p99 ms", "most ms", "load average"]]
    load(server, script, clients, min(seconds, 5))
    for number in range(4):
        busy = number in (1, 2)
        with _idle_and_slow(server.port, idle) if busy else contextlib.nullcontext():
            found = load(server, script, clients, seconds / 2)
        rates[busy].append(found.rate)
        rows.append(_row(f"with {idle} idle connections and a slow client" if busy else "without them", found))
        report.table("with idle connections and a slow client", rows)
    # The order of the rounds is symmetric in time, so that a slow change of the machine affects both rates equally.
    report.figure(
        f"rate with {idle} idle connections and a slow client / rate without them",
        sum(rates[True]) / sum(rates[False]), goal=0.95, form=".2f",
    )  # fmt: skip


@contextlib.contextmanager
def _idle_and_slow(port: int, idle: int) -> Iterator[None]:
    """Half of the idle connections send nothing at all, the other half the beginning of a request."""
    ended = threading.Event()
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(idle + 1)]
        for one in opened[::2]:
            one.sendall(b"POST /knn-service HTTP/1.1\r\nHost: slow\r\nContent-Length: 10000\r\n")

        def dribble() -> None:
            with contextlib.suppress(OSError):
                opened[0].sendall(b"\r\n")
                while not ended.wait(1):
                    opened[0].sendall(b" ")

        thread = threading.Thread(target=dribble)
        thread.start()
        yield
        ended.set()
        thread.join()


def _memory(report: GrowingReport, server: Server, script: Path, clients: int, requests: int) -> None:
    """Compares the memory after all requests with that after a tenth of them."""
    done, seen = 0, [(0, server.bytes)]
    while done < requests:
        done += load(server, script, clients, 10).requests
        seen.append((done, server.bytes))
    early = next(size for count, size in seen if count >= SOME * requests)
    rows = [["requests", "anonymous memory, MB"], *([f"{count:,}", f"{size / 1e6:.0f}"] for count, size in seen)]
    report.table("memory", rows)
    report.figure(
        f"memory after {requests:,} requests / after a tenth of them",
        seen[-1][1] / early, sign="≤", goal=1.05, form=".3f",
    )  # fmt: skip


def _statements(report: GrowingReport, settings: Settings, threads: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.service_statements", str(report.scratch / "queries.npy")]
    command += [str(threads), f"{seconds:g}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment(settings))
    found: dict[str, float] = json.loads(said.stdout.strip().splitlines()[-1])
    return found


def _row(name: str, found: Load) -> list[str]:
    return [name, *(f"{value:.1f}" for value in (found.rate, found.p50, found.p99, found.most)), _busy()]


def _busy() -> str:
    return f"{os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
