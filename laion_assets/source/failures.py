"""The ways in which one try at one source fails, beyond `errors`: they steer what is tried next, and are not reported.

`fetch_shard` and `observe_shard` raise the errors of `laion_assets.errors` only.
"""

from __future__ import annotations

from laion_assets.errors import SourceError


class WrongFileError(SourceError):
    """A source gave something else than the file that is wanted: size, magic bytes, header or SHA-256."""


class SlowSourceError(SourceError):
    """A source gave fewer bytes a second than LAION_HTTP_MIN_BYTES_PER_SECOND."""


class BusySourceError(SourceError):
    """A source asks to be left alone for `wait_seconds` (429 or 503)."""

    wait_seconds: float | None = None


class StoppedError(Exception):
    """The whole fetch is being stopped (an interrupt, or another file of the shard failed): not a source's fault."""


def reason(error: SourceError) -> str:
    """What was found and expected, without the subject and the advice."""
    return f"{error.found}, expected {error.expected}" if error.expected else error.found
