"""What our statements say about themselves in `log_comment`, which system.processes and system.query_log show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_label: ContextVar[str] = ContextVar("log_comment", default="")


@contextmanager
def labelled(**facts: str) -> Iterator[None]:
    """Connections that are opened within the block have these facts, as JSON, as the `log_comment` of their statements.

    A thread that opens a connection gets them by `contextvars.copy_context().run`.
    """
    token = _label.set(json.dumps({"from": "laion_assets", **facts}))
    try:
        yield
    finally:
        _label.reset(token)


def label() -> str:
    """The `log_comment` for a connection that is opened now; empty if there is none."""
    return _label.get()
