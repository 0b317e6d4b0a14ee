"""What our statements say of themselves in `log_comment`, which system.processes and system.query_log show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_label: ContextVar[str] = ContextVar("log_comment", default="")


@contextmanager
def labelled(**facts: str) -> Iterator[None]:
    """Connections that are opened within the block have these facts as the `log_comment` of their statements, in JSON.

    A thread that opens one takes them over by `contextvars.copy_context().run`.
    """
    token = _label.set(json.dumps({"from": "laion_assets", **facts}))
    try:
        yield
    finally:
        _label.reset(token)


def label() -> str:
    """The `log_comment` of a connection that is opened now; empty for none."""
    return _label.get()
