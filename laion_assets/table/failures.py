"""Turns failures of ClickHouse and of its connection into our typed errors: one line, without passwords."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Iterator

from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ReadTimeoutError

from laion_assets.errors import ServerBusyError, ServerRefusedError, ServerUnreachableError, TableError
from laion_assets.redact import without

_LOGIN = "see user and password in LAION_CLICKHOUSE and LAION_CLICKHOUSE_PASSWORD"
_CACHE = (
    "the user's profile has use_query_cache = 1, but checks need new results: ALTER USER … SETTINGS use_query_cache = 0"
)
REFUSALS = {
    **dict.fromkeys((192, 193, 194, 516), _LOGIN),
    497: "`laion-assets grants` prints what the user needs",
    **dict.fromkeys((704, 719), _CACHE),
}
"""What to do, by ClickHouse's error code: unknown user, wrong or missing password; missing privileges; and a query
cache that the user's profile turns on, which refuses queries with `version()` or of a system table."""

BUSY = frozenset((202, 209, 210, 225, 242, 252, 425, 439, 473, 999))
"""Codes of what passes: too many queries (202), the network between servers (209, 210), no Keeper (225, 999), a replica
that is read-only meanwhile (242), too many parts before they are merged (252), errors of the system (425), no thread
(439), a lock that another statement holds (473)."""

MEMORY_LIMIT = 241
OF_THE_STATEMENT = "Query memory limit"
"""How the message begins if the statement itself needs too much memory. Otherwise others use it, too."""

TIMEOUT_EXCEEDED = 159
BUSY_STATUS = re.compile(r"HTTP status (429|502|503|504)\b")


@contextlib.contextmanager
def typed_errors(subject: str, secret: str = "") -> Iterator[None]:
    """Raises `TableError`, or one of its kinds, for the client's errors; `secret` is not shown.

    `ServerUnreachableError` and `ServerBusyError` if a later try may succeed, `ServerRefusedError` if trying again does
    not help.
    """
    try:
        yield
    except (ClickHouseError, HTTPError) as error:
        raise _typed(subject, error, secret) from error
    except MemoryError as error:
        raise TableError(
            subject, found="no memory left", advice="lower max_threads, or give the process more memory"
        ) from error


def unloadable(error: ImportError) -> TableError:
    """Why the embedded engine cannot be loaded: it is missing, or it does not know the process's time zone."""
    zone = os.environ.get("TZ")
    return TableError(
        "embedded engine",
        found=f"an engine that cannot be loaded ({first_sentence(error)}" + (f", TZ is {zone!r})" if zone else ")"),
        expected="a TZ that is in the time zone database, such as UTC or Europe/Berlin" if zone else "the package chdb",
    )


def _typed(subject: str, error: Exception, secret: str) -> TableError:
    found = first_sentence(error)
    found = without(found, secret)
    code = error.code if isinstance(error, DatabaseError) else None
    if code is not None and (known := _by_code(code, subject, found)):
        return known
    if "nknown Index type" in found:
        return ServerRefusedError(subject, found=found, expected="a ClickHouse that was built with vector_similarity")
    if code is None and BUSY_STATUS.search(found):
        return ServerUnreachableError(subject, found=found, expected="a server that answers")
    if code is None and isinstance(error, (OperationalError, HTTPError)):
        return _unreachable(subject, error)
    return TableError(subject, found=found)


def _by_code(code: int, subject: str, found: str) -> TableError | None:
    """The error for the codes that we know."""
    if code in REFUSALS:
        return ServerRefusedError(subject, found=found, advice=REFUSALS[code])
    if code in BUSY or (code == MEMORY_LIMIT and OF_THE_STATEMENT not in found):
        return ServerBusyError(subject, found=found, expected="a less busy engine", advice="run this again")
    if code == TIMEOUT_EXCEEDED:
        return TableError(
            subject,
            found=found,
            advice="raise LAION_CLICKHOUSE_SEARCH_SECONDS or LAION_CLICKHOUSE_LOAD_SECONDS",
        )
    return None


def _unreachable(subject: str, error: Exception) -> TableError:
    """The message of the network's own exception, which the client's message hides."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServerRefusedError(
                subject,
                found=f"an invalid TLS certificate ({cause.verify_message})",
                expected="a valid certificate",
                advice="LAION_CLICKHOUSE_CA_FILE adds a certificate authority that you trust",
            )
        if isinstance(cause, ssl.SSLError):
            return ServerUnreachableError(subject, found=f"no TLS ({cause.reason or cause})", expected="a TLS server")
        if isinstance(cause, TimeoutError) and "handshake" in str(cause):
            # A server without TLS may read the client's hello as the beginning of a request, and wait for its end.
            found = "no TLS (no answer to the handshake within the time limit)"
            return ServerUnreachableError(subject, found=found, expected="a TLS server")
        for kind, found in (
            (NameResolutionError, "a host name that does not resolve"),
            (ConnectTimeoutError, "no connection within LAION_CLICKHOUSE_CONNECT_SECONDS"),
            (ReadTimeoutError, "no answer within the time limit"),
            (ConnectionRefusedError, "a refused connection"),
        ):
            if isinstance(cause, kind):
                return ServerUnreachableError(subject, found=found, expected="a server that answers")
        if isinstance(cause, NewConnectionError):
            found = f"no connection ({str(cause).rpartition(': ')[2]})"
            return ServerUnreachableError(subject, found=found, expected="a server that answers")
    return ServerUnreachableError(
        subject, found="a connection that was cut", expected="an answer", advice="run the command or the step again"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and its causes, the innermost first."""
    found: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        one = pending.pop()
        if isinstance(one, BaseException) and one not in found:
            found.append(one)
            pending += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found[::-1]


def first_sentence(error: Exception) -> str:
    """ClickHouse's message without the client's text, stack trace and version, at most 400 characters."""
    text = " ".join(str(error).split())
    text = re.sub(r"^Received ClickHouse exception, code: \d+, server response: ", "", text)
    return re.sub(r"\s*\(version [^)]*\).*$|\s*Stack trace:.*$|\s*\(for url [^)]*\)$", "", text)[:400]
