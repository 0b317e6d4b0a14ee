"""Reports a wait: its reason, its end and how to stop it. Each wait of more than two seconds is reported.

Waits are reported to the logger `laion_assets.waiting`, which writes to standard error unless it has another handler.
The command line shows them above its bars, and Dagster keeps them in a step's log of standard error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("laion_assets.waiting")

SILENT_SECONDS = 2.0
"""A wait that is known to take no longer than this is not reported."""

REPORTED_AFTER_SECONDS = 1.5
"""A wait of unknown length is reported after this time, so that it is reported within `SILENT_SECONDS`."""

STOP = "Ctrl-C, or ending the run, stops the wait; finished work is kept"


def say_wait(what: str, seconds: float, stop: str = STOP) -> None:
    """Reports that `what` is waited for, for `seconds` at most, if that is longer than `SILENT_SECONDS`."""
    if seconds > SILENT_SECONDS:
        _say(what, seconds, stop)


@contextmanager
def waiting(what: str, seconds: float, stop: str = STOP) -> Iterator[None]:
    """Reports the same about the block that it surrounds, once the block has taken `REPORTED_AFTER_SECONDS`."""
    timer = threading.Timer(REPORTED_AFTER_SECONDS, say_wait, (what, seconds, stop))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def reporting_silence(pieces: Iterator[bytes], what: str, seconds: float, stop: str = STOP) -> Iterator[bytes]:
    """Passes on `pieces`, and reports each wait for the next piece that is longer than `REPORTED_AFTER_SECONDS`.

    One thread watches all pieces, since thousands come a second. `seconds` is how long one piece may take.
    """
    asked_at: float | None = None
    ended = threading.Event()

    def watch() -> None:
        told_of: float | None = None
        sleep = REPORTED_AFTER_SECONDS
        while not ended.wait(sleep):
            sleep = REPORTED_AFTER_SECONDS
            since = asked_at
            if since is None or since == told_of:
                continue
            silent = time.monotonic() - since
            if silent < REPORTED_AFTER_SECONDS:
                sleep = REPORTED_AFTER_SECONDS - silent
                continue
            _say(f"more of {what}", max(0.0, seconds - silent), stop)
            told_of = since

    watching = threading.Thread(target=watch, name="telling silence", daemon=True)
    watching.start()
    try:
        while True:
            asked_at = time.monotonic()
            piece = next(pieces, None)
            asked_at = None
            if piece is None:
                return
            yield piece
    finally:
        ended.set()


def _say(what: str, seconds: float, stop: str) -> None:
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + min(seconds, 1e8)))
    LOG.warning("waiting for %s, until %s at most (%.0f s). %s", what, until, seconds, stop)
