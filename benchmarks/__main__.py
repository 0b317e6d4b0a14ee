"""`python -m benchmarks [NAME …]`: runs benchmarks by name and writes their report. What they do is in their files."""

from __future__ import annotations

import argparse
import fcntl
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from benchmarks import floor, ingest, ingest_million, merge_encodings, sample
from benchmarks.harness import Bench
from benchmarks.process import REPORTS, SCRATCH, compile_all
from benchmarks.report import Section, machine, write_report

BENCHMARKS: dict[str, Callable[[Bench], Section]] = {
    "ingest": ingest.run,
    "ingest_million": ingest_million.run,
    "merge_encodings": merge_encodings.run,
    "sample": sample.run,
    "floor": floor.run,
}


def main() -> None:
    """Runs what was named, or all; the report is written after each, so that an interruption loses only one."""
    given = _arguments()
    given.scratch.mkdir(parents=True, exist_ok=True)
    with (given.scratch / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run works in {given.scratch}: two at once would measure each other")
        _run(given)


def _run(given: argparse.Namespace) -> None:
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    began, facts = datetime.now(timezone.utc), machine()
    bench = Bench(given.runs or (1 if given.quick else 5), given.quick, given.scratch.absolute())
    compile_all()
    folder = bench.scratch if given.quick else REPORTS
    names = given.names or list(BENCHMARKS)
    title = "all" if set(names) == set(BENCHMARKS) else "-".join(names)
    sections: list[Section] = []
    for name in names:
        sys.stderr.write(f"{name}\n")
        sections.append(BENCHMARKS[name](bench))
        sys.stdout.write(sections[-1].markdown() + "\n")
        report = write_report(sections, title, command, facts, began, folder)
    sys.stdout.write(f"report: {report}\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all where none is given")
    parser.add_argument("--runs", type=int, help="rounds: 5, or 1 with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that all works; the report is scratch"
    )
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="for sample shards and tables: 20 GB")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return given


if __name__ == "__main__":
    main()
