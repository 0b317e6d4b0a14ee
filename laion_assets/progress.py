"""How a step reports its progress. This module draws nothing and knows no step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

MINUTE_SECONDS = 60.0

Log = Callable[[str], None]
"""A function that takes a line of text about what is being done."""


class Progress(Protocol):
    """Takes the progress of one shard's steps. `begin` starts a stage; `advance` counts within it."""

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins: its name, and how many units it has, where that is known."""

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` units of the stage are finished; `total` is given when it becomes known or changes."""


class LoggedProgress:
    """Writes progress as log lines: the name of each stage once, and its progress every `every_seconds`."""

    def __init__(self, log: Log, every_seconds: float = 10.0) -> None:
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
        """Logs the progress of the stage, unless it was logged less than `every_seconds` ago."""
        self._done += done
        self._total = total or self._total
        if time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            share = f" ({self._done / self._total:.0%})" if self._total else ""
            self._log(f"{self._stage}: {self._done:,} {self._unit}{share}")


@contextmanager
def reporting_each_minute(say: Log) -> Iterator[Log]:
    """Yields a function that is called with what is being done now. Each minute `say` gets that text, with the minutes
    since the beginning.

    `say` is called in a thread of its own: one statement of an exact search can take longer than a minute.
    """
    started, ended = time.monotonic(), threading.Event()
    current = ""

    def doing(what: str) -> None:
        nonlocal current
        current = what

    def repeat() -> None:
        while not ended.wait(MINUTE_SECONDS):
            if current:
                say(f"{current}; {(time.monotonic() - started) / 60:.0f} min so far")

    thread = threading.Thread(target=repeat, name="saying each minute", daemon=True)
    thread.start()
    try:
        yield doing
    finally:
        ended.set()
        thread.join()
