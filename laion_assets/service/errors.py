"""What a request can be refused for, with its HTTP status. No message holds a path, a password or a stack trace."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is not answered: `status` is the HTTP status, `reason` one line for whoever asked."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = " ".join(reason.split())
        self.retry_after = retry_after
        """Seconds after which the same request may be answered; None where waiting does not help."""


def bad_request(reason: str) -> RefusedError:
    """The request cannot be answered as it is."""
    return RefusedError(400, reason)
