"""How a step tells what it has done, to whoever shows it. It draws nothing and knows no step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Takes the progress of one shard's steps. `begin` starts a stage; `advance` counts within it."""

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins: its name, and how many of which unit it has where that is known."""

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` more of the stage's units; `total` where it became known, or changed."""


class LoggedProgress:
    """Writes progress as log lines: each stage once, and how far it is every `every_seconds`."""

    def __init__(self, log: Callable[[str], None], every_seconds: float = 10.0) -> None:
        self._log = log
        self._every = every_seconds
        self.begin("")

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """Logs the stage's name."""
        self._stage, self._total, self._unit, self._done = stage, total, unit, 0
        self._said = time.monotonic()
        if stage:
            self._log(stage + (f": {total:,} {unit}" if total else ""))

    def advance(self, done: int, total: int | None = None) -> None:
        """Logs where the stage stands, if it was not said lately."""
        self._done += done
        self._total = total or self._total
        if time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            self._log(f"{self._stage}: {self._done:,} {self._unit}{share}")
