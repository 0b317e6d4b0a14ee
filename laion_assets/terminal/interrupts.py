"""Ctrl-C and SIGTERM while a command executes runs, which have signal handlers of their own, or follows others'."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


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


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """While the block runs, SIGTERM raises `KeyboardInterrupt`. In another thread than the main one it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
