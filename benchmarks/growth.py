"""Benchmark: the costs that grow with the number of partitions: loading and indexing a shard, a search, Dagster's
pages.

`python -m benchmarks growth [--quick]`. The shards are tiny, so that the cost of rows is small. The remaining cost is
what each step lists and reads again, and what the engine and Dagster keep.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import alone, orchestration
from benchmarks.growing import ROWS, unsynced_history
from benchmarks.process import Measured, measure, python
from benchmarks.report import Section
from laion_assets.sample.shards import write_sample_shard

NEXT = 5
"""Shards that are loaded at each step. The first shard of a process is not counted."""

STEPS = (1, 10, 50, 200, 410)
QUICK_STEPS = (1, 5)
EVENTS, QUICK_EVENTS = (1_230, 12_300), (1_230, 2_460)

ABOUT = f"""\
Partitions of {ROWS} rows are made, each of one part. Dagster's instance (SQLite) gets a run and three materializations
for each partition. At each number of loaded partitions a new process loads {NEXT} more shards as
`laion-assets load FIRST-LAST` does: the shards are fetched, merged, checked and swapped in, with every check. The first
shard is not counted. Peak memory is the anonymous memory of the process. Then the new partitions are indexed (M 8), 50
searches run, and the state that `laion-assets status` shows is read. Parts that a mutation replaced are removed before
that, since the engine keeps them for eight minutes. On a busy machine only the CPU seconds can be compared."""


@dataclass(frozen=True)
class Step:
    """What was measured with `loaded` partitions in the table."""

    loaded: int
    load: Measured
    index: Measured
    look: Measured

    @property
    def wall(self) -> float:
        """Wall seconds to load one more shard."""
        return float(self.load.result["wall"])

    @property
    def cores(self) -> float:
        """CPU seconds to load one more shard."""
        return float(self.load.result["cores"])

    def cells(self) -> list[str]:
        """The step's row of the table."""
        look: dict[str, Any] = self.look.result
        index: dict[str, Any] = self.index.result
        return [
            f"{self.loaded:,}",
            f"{self.wall:.2f} / {self.cores:.2f}",
            f"{self.load.peak_bytes / 1e6:.0f}",
            f"{index['seconds'] / NEXT:.2f} / {index['cores'] / NEXT:.2f}",
            f"{index['cover']:.2f} / {index['cover_cores']:.2f}",
            f"{look['index'] * 1e3:.1f} / {look['index_cores'] * 1e3:.1f}",
            f"{look['exact'] * 1e3:.1f} / {look['exact_cores'] * 1e3:.1f}",
            f"{look['status']:.2f} / {look['status_cores']:.2f}",
        ]


HEAD = [
    "partitions loaded", "load the next shard, s / CPU s", "peak MB", "index a partition, s / CPU s",
    "list what is indexed, s / CPU s", "search by index, ms / CPU ms", "exact, ms / CPU ms", "status, s / CPU s",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks growth`."""
    parser = alone.parser(__doc__, "growth")
    parser.add_argument("--quick", action="store_true", help="few partitions and events, to check that all works")
    given = parser.parse_args(arguments)
    with alone.reported("growth", ABOUT, given) as report:
        steps = _partitions(report, QUICK_STEPS if given.quick else STEPS)
        _figures(report, steps)
        _pages(report, given)
    return report.section


def _partitions(report: alone.GrowingReport, numbers: tuple[int, ...]) -> list[Step]:
    folder = report.scratch
    (folder / "tiny.toml").write_text(
        f'name = "tiny"\nshards = {numbers[-1] + NEXT}\ndimension = 512\n[[sources]]\nurl = "{folder / "sample"}"\n'
    )
    for shard in range(numbers[-1] + NEXT):
        _link_shard(folder / "sample", shard)
    steps: list[Step] = []
    there = 0
    for number in numbers:
        _program("fill", folder, there, number - there)
        load = _program("load", folder, number, NEXT)
        step = Step(number, load, _program("index", folder), _program("look", folder))
        there = number + NEXT
        steps.append(step)
        report.say(f"{number} partitions: {step.wall:.2f} s, CPU {step.cores:.2f} s")
        report.table("With so many partitions loaded", [HEAD, *(one.cells() for one in steps)])
        report.raw(f"{number} partitions", {"load": load.result, "index": step.index.result, "look": step.look.result})
    return steps


def _link_shard(folder: Path, shard: int) -> None:
    """Writes the files of shard 0, and links them under the number of every other shard. The ids of rows come from the
    shard's number."""
    if shard == 0:
        write_sample_shard(folder, 0, ROWS)
        return
    for path in folder.glob("*/*_0.*"):
        os.link(path, path.with_name(path.name.replace("_0.", f"_{shard}.")))


def _figures(report: alone.GrowingReport, steps: list[Step]) -> None:
    few, many = steps[1 if len(steps) > 2 else 0], steps[-1]
    title = f"with {many.loaded} partitions / with {few.loaded}"
    report.figure(f"time to load the next shard, {title}", many.wall / few.wall, sign="≤", goal=1.2, form=".2f")
    report.figure(f"CPU time to load the next shard, {title}", many.cores / few.cores, sign="≤", goal=1.2, form=".2f")
    report.figure(
        f"peak memory to load the next shard, {title}",
        many.load.peak_bytes / few.load.peak_bytes,
        sign="≤",
        goal=1.2,
        form=".2f",
    )
    for name in ("index", "exact"):
        apart = (many.look.result[name] - steps[0].look.result[name]) / (many.loaded - steps[0].loaded)
        report.figure(f"a search ({name}): time for each further partition", apart * 1e3, "ms")


def _pages(report: alone.GrowingReport, given: argparse.Namespace) -> None:
    """Measures Dagster's view of 410 partitions and its schedules, with a short history and with one ten times as
    long."""
    unsynced_history()
    rows = [["with 410 partitions", *(f"{events:,} events, s" for events in _events(given)), "times"]]
    measured = [
        orchestration.history_figures(report.scratch / f"history_{events}", 2 if given.quick else 5, events)
        for events in _events(given)
    ]
    for short, long in zip(*measured, strict=True):
        rows.append([short.name, f"{short.seconds:.3f}", f"{long.seconds:.3f}", f"{long.seconds / short.seconds:.2f}"])
    report.table("Dagster's history (SQLite)", rows)


def _events(given: argparse.Namespace) -> tuple[int, int]:
    return QUICK_EVENTS if given.quick else EVENTS


def _program(step: str, folder: Path, *numbers: int) -> Measured:
    return measure(python("benchmarks.growing", step, folder, *numbers))
