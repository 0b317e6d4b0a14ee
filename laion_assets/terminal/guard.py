"""Runs the command so that each failure of the terminal, the environment, files or Dagster's instance is one line.

What a user can act on is a `LaionError`, exit code 2. Errors of other packages are shown in the same form. An
unexpected error is one line as well, with its traceback in a file, exit code 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable

from rich.console import Console

from laion_assets.errors import LaionError
from laion_assets.redact import redact_chain, redact_text
from laion_assets.waiting import LOG

LEAST_COLUMNS, MOST_COLUMNS = 20, 1000

FORESEEN = {
    "sqlalchemy": "Dagster instance",
    "sqlite3": "Dagster instance",
    "psycopg2": "Dagster instance",
    "alembic": "Dagster instance",
    "dagster": "Dagster",
    "dagster_postgres": "Dagster instance",
    "dagster_shared": "Dagster",
    "yaml": "Dagster instance",
    "grpc": "Dagster",
}
"""The subject of errors of these packages."""

UNSET_VARIABLE = re.compile(r'environment variable "([^"]+)" which is not set')
"""Dagster's message for a variable in its configuration (`{env: NAME}`) that has no value."""

RETRYING = "Retrying failed database"
"""The beginnings of messages of dagster-postgres and Dagster's storage about a failed try."""

OTHER_USER = "run it as a user who has access, or choose another folder (DAGSTER_HOME, LAION_DATA_DIR)"

SQLITE = {
    "readonly database": OTHER_USER,
    "unable to open database file": OTHER_USER,
    "database is locked": "another process writes to it; run it again",
    "disk is full": "free some space",
    "disk I/O error": "check that the disk works and has space",
}
"""What to do about an error of SQLite, by its message; for any other message the file is damaged."""

ADVICE = {
    sqlite3.DatabaseError: "its storage is damaged or is not an SQLite file: restore the .db files of the instance, or "
    "move them away; the table and the store are not affected",
    PermissionError: OTHER_USER,
}


def guarded(command: Callable[[], object], errors: Console) -> int:
    """Runs the command; returns the exit code. Raises only `SystemExit`, which the command line's parser raises."""
    _open_standard_streams()
    _show_waits(errors)
    try:
        code = command()
        sys.stdout.flush()
    except SystemExit:
        # The parser has printed its message. Standard output may be closed.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            raise
        return _silent()
    except BaseException as error:
        return _ended(error, errors)
    return code if isinstance(code, int) else 0


def _ended(error: BaseException, errors: Console) -> int:
    """Prints why the command ended; returns the exit code."""
    if isinstance(error, BrokenPipeError):
        return _silent()
    if isinstance(error, KeyboardInterrupt):
        return 130
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]  # prints the help, as the parser does; its class is not public
        return 2
    if isinstance(error, LaionError):
        message, code = str(error), 2
    elif hasattr(error, "format_message"):
        message, code = _of_the_parser(error), 2
    elif isinstance(error, OSError):
        message, code = _of_the_system(error), 2
    else:
        message, code = _foreign(error)
    message = message.encode("utf-8", "backslashreplace").decode("utf-8")
    with contextlib.suppress(OSError):
        errors.print(f"laion-assets: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


def sound_console(*, stderr: bool = False) -> Console:
    """A console with the width COLUMNS, if a table can have that width: with 0 nothing would be shown, and other
    libraries fail if it is not a number."""
    for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH"):
        given = os.environ.get(name)
        if given is not None and not (given.isdecimal() and LEAST_COLUMNS <= int(given[:9]) <= MOST_COLUMNS):
            del os.environ[name]
    return Console(stderr=stderr)


def one_line(error: BaseException) -> str:
    """An error of any package in one line without secrets: its kind and its first words."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = " ".join(lines)[:300] if lines else "no message"
    return redact_text(f"{type(error).__name__}: {words}")


def _open_standard_streams() -> None:
    """Opens each closed standard stream, and shows replacement characters for what its encoding cannot write.

    Without standard output (`>&-`) the next opened file would get its number, and the engine would write into that
    file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")


class _Shown(logging.Handler):
    """Writes waits to standard error, above any bars."""

    def __init__(self, errors: Console) -> None:
        super().__init__()
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._errors.print(record.getMessage(), style="yellow", markup=False, highlight=False, soft_wrap=True)


def _show_waits(errors: Console) -> None:
    LOG.handlers = [_Shown(errors)]
    LOG.propagate = False
    logging.getLogger().addFilter(_hide_retries)


def _hide_retries(record: logging.LogRecord) -> bool:
    """Whether a line of the root logger is shown: dagster-postgres writes four lines there for each try to connect.

    The error that ends the tries says the same, and the wait is reported where the instance is opened.
    """
    return not str(record.msg).startswith(RETRYING)


def _silent() -> int:
    """The reader of our output has ended, as in `laion-assets status | head -1`, so nothing can be printed."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1


def _of_the_parser(error: BaseException) -> str:
    """The error of the command line's parser, in one line with the command whose help explains what is expected."""
    context = getattr(error, "ctx", None)
    path, root = ("", "") if context is None else (context.command_path, context.find_root().info_name or "")
    command = f"laion-assets{path.removeprefix(root)}" if path else ""
    words = " ".join(error.format_message().split())  # type: ignore[attr-defined]  # what makes it one of the parser's
    return redact_text(words.rstrip(".") + (f"; see {command} --help" if command else ""))


def _of_the_system(error: OSError) -> str:
    about = str(error.filename) if error.filename else "the operating system"
    advice = next((words for kind, words in ADVICE.items() if isinstance(error, kind)), "")
    return redact_text(f"{about}: found {error.strerror or one_line(error)}" + (f"; {advice}" if advice else ""))


def _foreign(error: BaseException) -> tuple[str, int]:
    """An error of another package, and its exit code."""
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, LaionError):
            return str(cause), 2
    about = next((FORESEEN[package] for each in causes if (package := _package(each)) in FORESEEN), None)
    if about is None:
        return f"found an unexpected error: {one_line(error)}; the traceback is in {_kept(error)}", 1
    innermost = causes[-1]
    advice = next((words for begin, words in SQLITE.items() if begin in str(innermost)), "")
    advice = advice or next((words for kind, words in ADVICE.items() if isinstance(innermost, kind)), "")
    home = os.environ.get("DAGSTER_HOME", "")
    place = f"{about} {home}".strip() if about == "Dagster instance" else about
    advice = advice or "see dagster.yaml and the variables that it names"
    return f"{place}: found {_of_the_configuration(innermost) or one_line(innermost)}; {advice}", 2


def _of_the_configuration(error: BaseException) -> str:
    """What Dagster found wrong in a configuration, without the schema that it prints; "" for any other error.

    Dagster's own text begins with Python objects of the schema, so its first words name neither entry nor variable.
    """
    found = [str(getattr(one, "message", one)) for one in getattr(error, "errors", None) or ()]
    unset = [name for text in found for name in UNSET_VARIABLE.findall(text)]
    if unset:
        return redact_text(f"no value of {', '.join(dict.fromkeys(unset))} in the environment")
    return redact_text("; ".join(" ".join(text.split(". Expected")[0].split())[:300] for text in found[:3]))


def _causes(error: BaseException) -> list[BaseException]:
    """The error and its causes, the innermost last."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = (
            each.__cause__ or getattr(each, "orig", None) or (None if each.__suppress_context__ else each.__context__)
        )
    return found


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _kept(error: BaseException) -> str:
    """Writes the traceback, without secrets, into a file; returns the file's name."""
    redact_chain(error)
    text = "".join(traceback.format_exception(error)).encode("ascii", "backslashreplace")
    try:
        with tempfile.NamedTemporaryFile(prefix="laion-assets-", suffix=".txt", delete=False) as file:
            file.write(text)
            return file.name
    except OSError:
        return "no file, since none could be written"
