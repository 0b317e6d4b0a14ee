"""The typed errors, with their facts: what was found, what was expected, what to do. No step's logic lives here."""

from __future__ import annotations


class LaionError(Exception):
    """A failure that its user can act on; `str(error)` is one line.

    The facts stay available as attributes, so that the UI and the command line can show them apart:
    `subject` (which shard, file, URL or table), `found`, `expected` and `advice`.
    """

    def __init__(self, subject: str, *, found: str, expected: str = "", advice: str = "") -> None:
        self.subject = subject
        self.found = found
        self.expected = expected
        self.advice = advice
        message = f"{subject}: found {found}"
        if expected:
            message += f", expected {expected}"
        if advice:
            message += f"; {advice}"
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process borders (Dagster's step workers) with their facts."""
        return _rebuild, (type(self), self.subject, self.found, self.expected, self.advice)


def _rebuild(kind: type[LaionError], subject: str, found: str, expected: str, advice: str) -> LaionError:
    return kind(subject, found=found, expected=expected, advice=advice)


class SettingsError(LaionError):
    """A LAION_* variable has a value that cannot be used."""


class DatasetError(LaionError):
    """A dataset description, or a shard number asked of it, is not valid."""


class SourceError(LaionError):
    """A source could not give a file. Another mirror, or a later try, may."""


class PermanentSourceError(SourceError):
    """A source said no for good (404, 403, an invalid certificate): trying again does not help."""


class UnreachableSourceError(SourceError):
    """No source could be reached: unknown hosts, refused connections, no TLS. A later run may; waiting for it is not
    worth hours."""


class StoreError(LaionError):
    """The store cannot take or give a file: no space, read-only, or a raw file that was removed after its merge."""


class MissingRawError(StoreError):
    """A step needs raw files that are not in the store: they must be fetched (again) first, so waiting is no use."""


class ShardFileError(LaionError):
    """One of a shard's files is not what its dataset says: magic, dtype, shape, size, columns, row count."""


class TooManyBadRowsError(ShardFileError):
    """More than LAION_MAX_BAD_FRACTION of a shard's rows went to the quarantine."""


class TableError(LaionError):
    """ClickHouse refused or failed a statement, or the table is not as it must be."""


class TableShapeError(TableError):
    """A table of that name exists with other columns, keys or settings than ours."""


class EngineHeldError(TableError):
    """Another process holds the embedded engine's folder."""


class LeaseHeldError(TableError):
    """Another process loads this partition, or builds these indexes, now."""


class LeaseLostError(TableError):
    """A lease was not renewed in time, and another process may have taken it: nothing was swapped in."""


class CalibrationError(LaionError):
    """The sample shards that a plan is measured with could not be loaded on this machine."""


class ServerUnreachableError(TableError):
    """A ClickHouse server does not answer, or a connection was cut: a later try may do."""


class ServerRefusedError(TableError):
    """A ClickHouse server is too old, lacks something, or does not allow it to this user: trying again is no use."""


class PartitionCheckError(TableError):
    """What was staged for a partition does not equal its merged Parquet file."""


class SearchError(LaionError):
    """A search that cannot be answered as asked: vector, limit or filter."""


class ClipError(LaionError):
    """A text or picture that cannot be encoded, or a CLIP model that is absent or of another dimension."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, cut where it is long; its name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
