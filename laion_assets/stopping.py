"""Whether this process was told to end, for threads that no signal reaches. It ends nothing itself."""

from __future__ import annotations

import threading

_told = threading.Event()


class ProcessStoppedError(BaseException):
    """The process was told to end. No failure: nothing catches it to try again, as with `KeyboardInterrupt`."""


def tell_to_stop() -> None:
    """Has `check_stopped` raise from now on."""
    _told.set()


def forget_stop() -> None:
    """A new run begins in this process."""
    _told.clear()


def check_stopped() -> None:
    """Raises `ProcessStoppedError` once the process was told to end; not in the main thread, which hears signals."""
    if _told.is_set() and threading.current_thread() is not threading.main_thread():
        raise ProcessStoppedError
