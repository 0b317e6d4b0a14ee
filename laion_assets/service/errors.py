"""The reasons to refuse a request, with their HTTP status. No message has a path, a password or a stack trace."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is refused: `status` is the HTTP status, `reason` one line for the client."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = " ".join(reason.split())
        self.retry_after = retry_after
        """Seconds after which the same request may succeed; None if waiting does not help."""


def bad_request(reason: str) -> RefusedError:
    """The error for a request that is not valid."""
    return RefusedError(400, reason)
