"""Repeats a short statement that a busy server refused, so that hours of work are not lost by one refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from laion_assets.errors import ServerBusyError
from laion_assets.stop_flag import check_stopped

BUSY_SECONDS = 60.0
"""How long a busy server is asked again. A lease that could not be renewed for this time is lost."""

AGAIN_SECONDS = 1.0

Result = TypeVar("Result")


def patiently(ask: Callable[[], Result]) -> Result:
    """What `ask` returns, which may be called several times. Raises what it raises; `ServerBusyError` only after
    `BUSY_SECONDS`."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        check_stopped()
        try:
            return ask()
        except ServerBusyError:
            if time.monotonic() >= until:
                raise
            time.sleep(AGAIN_SECONDS)
