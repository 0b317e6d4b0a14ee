"""What a benchmark with its own options needs: common options, a scratch folder, a report that is written step by step.

It measures nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import NoReturn

from benchmarks.harness import Round, Spread
from benchmarks.process import REPORTS, SCRATCH
from benchmarks.report import Figure, Section, machine, write_report
from laion_assets.index.parameters import BITS, IndexParameters
from laion_assets.progress import LoggedProgress
from laion_assets.recall.figures import Evaluation


@dataclass
class GrowingReport:
    """The section of one benchmark. It is written again after each addition, so that an interruption loses one step.

    `scratch` is a folder that is empty at first and removed at the end.
    """

    section: Section
    folder: Path
    scratch: Path
    command: str
    facts: dict[str, str] = field(default_factory=machine)
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    started: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """Prints a line with the minutes since the start."""
        sys.stderr.write(f"  {(time.monotonic() - self.started) / 60:5.1f} min  {line}\n")
        sys.stderr.flush()

    def progress(self) -> LoggedProgress:
        """The progress of a build, printed in the same form every 20 seconds."""
        return LoggedProgress(self.say, every_seconds=20)

    def figure(
        self, name: str, values: float | list[float], unit: str = "", *, sign: str = "≥", goal: float | None = None,
        form: str = ".3f",
    ) -> None:  # fmt: skip
        """Adds a figure of one or several runs."""
        spread = Spread.of(values if isinstance(values, list) else [values])
        self.section.figures.append(Figure(name, spread, unit, sign, goal, form))
        self.save()

    def table(self, title: str, rows: list[list[str]]) -> None:
        """Adds or replaces a table. Its first row is the head."""
        self.section.tables[title] = rows
        self.save()

    def raw(self, name: str, facts: dict[str, object]) -> None:
        """Puts measurements into the JSON report."""
        self.section.rounds.setdefault(name, []).append(Round({}, facts))
        self.save()

    def evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Puts an evaluation into the JSON report."""
        self.raw(name, asdict(evaluation))

    def note(self, text: str) -> None:
        """Adds a paragraph above the tables."""
        self.section.about += f"\n\n{text}"
        self.save()

    def save(self) -> Path:
        """Writes Markdown and JSON; returns the path of the Markdown."""
        return write_report([self.section], self.section.name, self.command, self.facts, self.began, self.folder)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """A parser with the options of every such benchmark: the folder of the report, and the scratch folder."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--report", type=Path, default=REPORTS, help="folder of the report")
    made.add_argument("--scratch", type=Path, default=SCRATCH, help="folder for tables, which are removed at the end")
    return made


@contextmanager
def reported(name: str, about: str, given: argparse.Namespace) -> Iterator[GrowingReport]:
    """A report and a scratch folder for the block. After SIGTERM or Ctrl-C the report is kept and the folder is
    removed."""
    signal.signal(signal.SIGTERM, _terminated)
    # Python keeps compiled modules, as it does by default: compiling Dagster takes longer than a run.
    for variable in [name for name in os.environ if name.startswith("LAION_") or name == "PYTHONDONTWRITEBYTECODE"]:
        del os.environ[variable]
    given.scratch.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}_", dir=given.scratch.absolute()))
    command = shlex.join(["python", *sys.orig_argv[1:]])
    report = GrowingReport(Section(name, about), given.report.absolute(), scratch, command)
    try:
        yield report
        sys.stdout.write(f"{report.section.markdown()}\nreport: {report.save()}\n")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def index_parameters(text: str) -> IndexParameters:
    """Parses `bf16,64,256`: quantization, M, ef_construction. Raises `ArgumentTypeError`."""
    try:
        name, m, ef_construction = text.split(",")
        quantization = next(known for known in BITS if known == name)
        return IndexParameters(quantization, int(m), int(ef_construction))
    except (ValueError, StopIteration):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not quantization,M,ef_construction, such as bf16,64,256"
        ) from None


def shape(text: str) -> tuple[int, int]:
    """Parses `200000x10`: rows and partitions. Raises `ArgumentTypeError`."""
    try:
        rows, parts = (int(number) for number in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWSxPARTITIONS, such as 200000x10") from None
    return rows, parts


def _terminated(_number: int, _frame: object) -> NoReturn:
    raise SystemExit("terminated")
