"""What a measured program reports to the harness: its parts with their times, and its figures.

It does not measure memory: the harness does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


class StageReport:
    """Collects named parts and figures of this process, and prints them as one line of JSON at the end."""

    def __init__(self) -> None:
        self._phases: list[tuple[str, float, float, float]] = []
        self._figures: dict[str, object] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times one part with the clock that the harness also uses for memory, and counts its CPU seconds."""
        start, cpu = time.monotonic(), time.process_time()
        yield
        self._phases.append((name, start, time.monotonic(), time.process_time() - cpu))

    def say(self, **figures: object) -> None:
        """Adds figures to the report."""
        self._figures.update(figures)

    def close(self) -> None:
        """Prints the report."""
        sys.stdout.write(json.dumps({**self._figures, "phases": self._phases}) + "\n")


def run_step(**steps: Callable[[Path, str, StageReport], None]) -> None:
    """Runs `python -m benchmarks.NAME STEP FOLDER NUMBER`. NUMBER is the number of the shard."""
    step, folder, number = sys.argv[1:]
    report = StageReport()
    steps[step](Path(folder), number, report)
    report.close()
