"""A flag that says whether this process was told to end, for threads that no signal reaches. It ends nothing itself."""

from __future__ import annotations

import threading

_told = threading.Event()


class ProcessStoppedError(BaseException):
    """The process was told to end. As with `KeyboardInterrupt`, no code may catch this error and try again."""


def request_stop() -> None:
    """From now on `check_stopped` raises."""
    _told.set()


def reset_stop() -> None:
    """Called when a new run begins in this process: `check_stopped` does not raise any more."""
    _told.clear()


def check_stopped() -> None:
    """Raises `ProcessStoppedError` once the process was told to end; never in the main thread, which gets signals."""
    if _told.is_set() and threading.current_thread() is not threading.main_thread():
        raise ProcessStoppedError
