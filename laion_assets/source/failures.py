"""How one try at one source can fail, beyond `errors`. These errors decide what is tried next, and are not reported.

`fetch_shard` and `observe_shard` raise only errors of `laion_assets.errors`.
"""

from __future__ import annotations

from laion_assets.errors import SourceError


class WrongFileError(SourceError):
    """A source gave another file than the wanted one, by its size, magic bytes, header or SHA-256."""


class SlowSourceError(SourceError):
    """A source gave fewer bytes a second than LAION_HTTP_MIN_BYTES_PER_SECOND."""


class BusySourceError(SourceError):
    """A source asks not to be asked again for `wait_seconds` (429 or 503)."""

    wait_seconds: float | None = None


class StoppedError(Exception):
    """The whole fetch is being stopped (an interrupt, or another file of the shard failed): the source did not fail."""


def reason(error: SourceError) -> str:
    """What was found and expected, without the subject and the advice."""
    return f"{error.found}, expected {error.expected}" if error.expected else error.found
