"""Says what is waited for, until when and how to stop it: no wait of more than two seconds is silent.

It is said to the logger `laion_assets.waiting`, which writes to standard error where nobody has it elsewhere: the
command line shows it above its bars, and Dagster keeps it in a step's log of standard error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger("laion_assets.waiting")

SILENT_SECONDS = 2.0

STOP = "Ctrl-C, or ending the run, stops it; what is done stays done"


def say_wait(what: str, seconds: float, stop: str = STOP) -> None:
    """Says that `what` is waited for, for `seconds` at most, if that is long enough to wonder about."""
    if seconds > SILENT_SECONDS:
        until = time.strftime("%H:%M:%S", time.localtime(time.time() + min(seconds, 1e8)))
        LOG.warning("waiting for %s, until %s at most (%.0f s). %s", what, until, seconds, stop)


@contextmanager
def waiting(what: str, seconds: float, stop: str = STOP) -> Iterator[None]:
    """Says the same of the block that it surrounds once that has taken `SILENT_SECONDS`."""
    timer = threading.Timer(SILENT_SECONDS, say_wait, (what, seconds, stop))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
