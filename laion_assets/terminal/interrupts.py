"""Ctrl-C and SIGTERM while a command executes runs, of which each has signal handlers of its own."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Yields a function that tells whether Ctrl-C or SIGTERM came. Use it in the main thread.

    During a run Dagster has its own handlers: a Ctrl-C fails the running step, and a Ctrl-C between two steps is lost
    at the run's end. Python writes each signal to the wakeup file descriptor, whatever its handler does.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def came() -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool({signal.SIGINT, signal.SIGTERM} & set(os.read(reader, 1024)))
        return False

    try:
        yield came
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
