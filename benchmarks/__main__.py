"""`python -m benchmarks [NAME …]`: runs benchmarks by name and writes their report. Each benchmark's file describes it.

Benchmarks of whole processes take the options below. Search, index, Dagster and CLIP benchmarks have their own options:
`python -m benchmarks NAME --help`.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import containers, fetch, fetch_share, ingest, ingest_million, merge_encodings, push, sample
from benchmarks.harness import Bench
from benchmarks.process import REPORTS, SCRATCH, compile_all
from benchmarks.report import Section, machine, write_report

BENCHMARKS: dict[str, Callable[[Bench], Section]] = {
    "ingest": ingest.run,
    "ingest_million": ingest_million.run,
    "containers": containers.run,
    "push": push.run,
    "push_million": push.run_million,
    "merge_encodings": merge_encodings.run,
    "sample": sample.run,
    "fetch": fetch.run,
    "fetch_share": fetch_share.run,
}

WITH_OPTIONS: dict[str, str] = {
    "search": "--rows 2000 --queries 10 --recall-queries 50 --runs 1 --parameters bf16,16,64 --without 'faiss, IVF-PQ'",
    "vector_proof": "--rows 5000 --runs 1",
    "query_cost": "--rows 2000 --queries 5 --runs 1",
    "searcher": "--rows 2000 --queries 20 --runs 1",
    "service": "--rows 2000 --seconds 2 --runs 1 --requests 500 --idle 10",
    "granules": "--rows 2000 --trials 2",
    "recall": "--rows 2000 --real --queries 5",
    "latency": "--rows 2000 --partitions 1 2 --sweep-rows 2000 --sweep 1 2 --queries 5",
    "exact_neighbours": "--rows 5000 --queries 50 --singles 5 --statement 3 --runs 1",
    "tuned": "--shapes 2000x1 --granularities 512 --queries 5",
    "index_build": "--rows 2000 --runs 1",
    "orchestration": "--quick",
    "orchestration_postgres": "--quick",
    "growth": "--quick",
    "cells": "--shapes 2000x1 2000x2 --graphs bf16,16,64 --queries 5 --exact 2",
    "plan": "--quick",
    "clip_full_size": "--runs 1 --calls 1",
    "clip_functions": "--texts 500 --runs 1 --calls 3",
}
"""Benchmarks with their own options, and the options that `--quick` passes to them. Their `main` returns a section."""


def main() -> None:
    """Runs the named benchmarks, or all. The report is written after each benchmark: an interruption loses only one."""
    name, *rest = sys.argv[1:] or [""]
    if name in WITH_OPTIONS and not set(rest) & {*BENCHMARKS, *WITH_OPTIONS}:
        quick = "--quick" in rest
        rest = [word for word in rest if word != "--quick"]
        with _alone_in(SCRATCH):
            _run_one(name, [*(_quick_options(name) if quick else []), *rest])
        return
    given = _arguments()
    with _alone_in(given.scratch):
        _run(given)


@contextmanager
def _alone_in(scratch: Path) -> Iterator[None]:
    """Allows only one run at a time: two runs at once would slow each other down."""
    scratch.mkdir(parents=True, exist_ok=True)
    with (scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(
                f"another benchmark run uses {scratch}: two runs at once would slow each other down; "
                "wait until the other run has ended"
            )
        yield


def _run_one(name: str, options: list[str]) -> Section:
    """Runs a benchmark that has its own options and writes its own report.

    It is imported only here, since its packages may take long to import.
    """
    section: Section = importlib.import_module(f"benchmarks.{name}").main(options)
    return section


def _quick_options(name: str) -> list[str]:
    return [*shlex.split(WITH_OPTIONS[name]), "--report", str(SCRATCH)]


def _run(given: argparse.Namespace) -> None:
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    began, facts = datetime.now(timezone.utc), machine()
    runs = given.runs or (1 if given.quick else 5)
    bench = Bench(runs, given.quick, given.scratch.absolute(), given.rows, given.without)
    compile_all()
    folder = bench.scratch if given.quick else REPORTS
    names = given.names or [*BENCHMARKS, *WITH_OPTIONS]
    title = "all" if not given.names else "-".join(names)
    sections: list[Section] = []
    for name in names:
        sys.stderr.write(f"{name}\n")
        if name in BENCHMARKS:
            sections.append(BENCHMARKS[name](bench))
            sys.stdout.write(sections[-1].markdown() + "\n")
        else:
            own = _quick_options(name) if given.quick else []
            sections.append(_run_one(name, [*own, "--report", str(bench.scratch), "--scratch", str(bench.scratch)]))
        report = write_report(sections, title, command, facts, began, folder)
    sys.stdout.write(f"report: {report}\n")


def _arguments() -> argparse.Namespace:
    known = [*BENCHMARKS, *WITH_OPTIONS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--runs", type=int, help="rounds: 5, or 1 with --quick")
    parser.add_argument("--rows", type=int, help="rows of a shard; default: each benchmark's own")
    parser.add_argument("--without", nargs="*", default=[], metavar="PEER", help="peers that `ingest` leaves out")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to check that all works; the report goes to --scratch"
    )
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="folder for sample shards and tables: 20 GB")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(unknown)}; the benchmarks are {', '.join(known)}")
    return given


if __name__ == "__main__":
    main()
