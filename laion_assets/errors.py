"""The typed errors, with their facts: what was found, what was expected, what to do. No step's logic lives here."""

from __future__ import annotations


class LaionError(Exception):
    """A failure that its user can act on; `str(error)` is one line.

    The facts are attributes, too, so that the UI and the command line can show each of them separately:
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
        """Keeps the facts when an error is pickled, as between Dagster's step workers."""
        return _rebuild, (type(self), self.subject, self.found, self.expected, self.advice)


def _rebuild(kind: type[LaionError], subject: str, found: str, expected: str, advice: str) -> LaionError:
    return kind(subject, found=found, expected=expected, advice=advice)


class SettingsError(LaionError):
    """A LAION_* variable has a value that cannot be used."""


class DatasetError(LaionError):
    """A dataset description, or the number of a shard that was asked for, is not valid."""


class SourceError(LaionError):
    """A source could not give a file. Another mirror may have the file, or a later try may succeed."""


class PermanentSourceError(SourceError):
    """A source refused for good (404, 403, an invalid certificate): trying again does not help."""


class UnreachableSourceError(SourceError):
    """No source could be reached: unknown hosts, refused connections, no TLS. A later run may reach one, but a step
    should not wait hours for it."""


class StoreError(LaionError):
    """The store cannot take or give a file: no space, read-only, or a raw file that was removed after its merge."""


class MissingRawError(StoreError):
    """A step needs raw files that are not in the store. They must be fetched (again) first; waiting does not help."""


class ShardFileError(LaionError):
    """One of a shard's files is not as its dataset describes it: magic, dtype, shape, size, columns, row count."""


class TooManyBadRowsError(ShardFileError):
    """More than LAION_MAX_BAD_FRACTION of a shard's rows went to the quarantine."""


class TableError(LaionError):
    """ClickHouse refused a statement, a statement failed, or the table is not as it must be."""


class TableShapeError(TableError):
    """A table of that name exists with other columns, keys or settings than ours."""


class EngineHeldError(TableError):
    """Another process holds the embedded engine's folder."""


class LeaseHeldError(TableError):
    """Another process is loading this partition, or building these indexes, now."""


class LeaseLostError(TableError):
    """A lease was not renewed in time, so another process may have taken it. Nothing was swapped in."""


class CalibrationError(LaionError):
    """The sample shards that a plan is measured with could not be loaded on this machine."""


class ServerUnreachableError(TableError):
    """A ClickHouse server does not answer, or a connection was cut: a later try may succeed."""


class ServerBusyError(TableError):
    """A ClickHouse server refused a statement for the moment: too many queries, no memory left in all, a replica or
    Keeper that is not reached. A later try may succeed."""


class ServerRefusedError(TableError):
    """A ClickHouse server is too old, lacks something, or denies something to this user: trying again does not help."""


class PartitionCheckError(TableError):
    """The rows that were staged for a partition are not equal to its merged Parquet file."""


class SearchError(LaionError):
    """A search that cannot be answered because of its vector, limit or filter."""


class EndedError(LaionError):
    """The work was ended by another thread, since nobody waits for its result. Says nothing about the table."""


class ClipError(LaionError):
    """A text or picture that cannot be encoded, or a CLIP model that is missing or has another dimension."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, shortened if it is long; the error's class name if the text is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
