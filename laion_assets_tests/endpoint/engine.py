"""Runs statements on chDB for the endpoint: a connection for each request or session, query ids, results as blocks."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import chdb

BLOCKWISE_FORMATS = ("Native", "RowBinary", "TabSeparated", "CSV", "JSONEachRow")
"""Formats whose blocks can be sent one after the other. For other formats, chDB repeats header and footer in each."""

FILE_FUNCTION = re.compile(r"\bfile\('((?:[^'\\]|\\.)*)'")


class EngineError(Exception):
    """An error of ClickHouse: its message, which begins with the error code."""

    @property
    def code(self) -> int:
        """ClickHouse's error code, or 0 if the message has none."""
        found = re.search(r"Code: (\d+)", str(self))
        return int(found[1]) if found else 0


@dataclass
class Summary:
    """Rows and bytes that a statement read or wrote, as in X-ClickHouse-Summary."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    elapsed_ns: int = 0


@dataclass
class Statement:
    """One request: the SQL, its settings and parameters, database, session and id."""

    sql: str
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    database: str = ""
    session: str = ""
    query_id: str = ""


class Engine:
    """One chDB folder. `user_files` is the only folder that `file()` may read, as on a server."""

    def __init__(self, folder: Path, user_files: Path, options: Mapping[str, str]) -> None:
        self._target = f"{folder}?{urlencode({'user_files_path': f'{user_files}/', **options})}"
        self._user_files = user_files.resolve()
        self._root = chdb.connect(self._target)
        """Kept open, because chDB shuts down when its last connection is closed."""
        self._sessions: dict[str, Any] = {}
        self._running: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def run(self, statement: Statement) -> Iterator[Running]:
        """Opens a connection with the request's database and settings for the block. Raises `EngineError`."""
        connection = self._connection(statement.session)
        running = Running(connection, self._local(self._with_our_ids(statement)))
        registered = ""
        try:
            if statement.query_id:
                self._register(statement.query_id)
                registered = statement.query_id
            running.prepare()
            yield running
        except RuntimeError as error:
            if statement.session:
                # chDB adds the output of a failed statement to the next answer of its connection: discard it.
                connection.query("SELECT 1", "TabSeparated")
            raise EngineError(_from_code(str(error))) from error
        finally:
            with self._lock:
                self._running.discard(registered)
            if not statement.session:
                connection.close()

    def _connection(self, session: str) -> Any:
        if not session:
            return chdb.connect(self._target)
        with self._lock:
            if session not in self._sessions:
                self._sessions[session] = chdb.connect(self._target)
            return self._sessions[session]

    def _register(self, query_id: str) -> None:
        with self._lock:
            if query_id in self._running:
                raise EngineError(
                    f"Code: 216. DB::Exception: Query with id = {query_id} is already running. "
                    "(QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)"
                )
            self._running.add(query_id)

    def _with_our_ids(self, statement: Statement) -> Statement:
        """Replaces the client's query ids by chDB's own ids, which `system.processes` and KILL use."""
        with self._lock:
            asked_of = [
                name for name in self._running if name in statement.sql or name in statement.parameters.values()
            ]
            for name in asked_of:
                sql = f"SELECT query_id FROM system.processes WHERE Settings['log_comment'] = '{name}'"
                ours = self._root.query(sql, "TabSeparated").bytes().decode().strip()
                statement.sql = statement.sql.replace(name, ours)
                statement.parameters = {key: text.replace(name, ours) for key, text in statement.parameters.items()}
        return statement

    def _local(self, statement: Statement) -> Statement:
        """Allows `file()` only paths in `user_files`, as a server does. chDB itself would read any path."""

        def resolve(found: re.Match[str]) -> str:
            path = (self._user_files / found[1].replace("\\'", "'").replace("\\\\", "\\")).resolve()
            if not path.is_relative_to(self._user_files):
                raise EngineError(
                    f"Code: 291. DB::Exception: File `{path}` is not inside `{self._user_files}`. "
                    "(DATABASE_ACCESS_DENIED)"
                )
            return "file('" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"

        statement.sql = FILE_FUNCTION.sub(resolve, statement.sql)
        return statement


class Running:
    """A statement on its connection."""

    def __init__(self, connection: Any, statement: Statement) -> None:
        self._connection = connection
        self._statement = statement
        self.summary = Summary()

    def prepare(self) -> None:
        """Sets database and settings. `readonly` comes last, because no setting can be changed after it.

        `log_comment` holds the client's query id. A profile with `readonly = 1` does not allow setting it.
        """
        if self._statement.database:
            self._connection.query(f"USE `{self._statement.database}`", "Null")
        settings = dict(self._statement.settings)
        readonly = settings.pop("readonly", "")
        profile = int(self._connection.query("SELECT getSetting('readonly')", "TabSeparated").bytes())
        if profile != 1:
            settings = {"log_comment": self._statement.query_id, **settings}
        assigned = []
        for name, value in settings.items():
            escaped = value.replace("\\", "\\\\").replace("'", "\\'")
            assigned.append(f"{name} = '{escaped}'")
        if assigned:
            self._connection.query(f"SET {', '.join(assigned)}", "Null")
        if readonly and not profile:
            self._connection.query(f"SET readonly = '{int(readonly)}'", "Null")

    def whole(self, form: str) -> bytes:
        """Runs the statement and returns the whole answer."""
        result = self._connection.query(self._statement.sql, form, params=dict(self._statement.parameters))
        self.summary = Summary(result.rows_read(), result.bytes_read(), elapsed_ns=int(result.elapsed() * 1e9))
        return bytes(result.bytes())

    def blocks(self, form: str) -> Iterator[bytes]:
        """Runs the statement and yields the answer block by block."""
        with self._connection.send_query(self._statement.sql, form, params=dict(self._statement.parameters)) as stream:
            for block in stream:
                yield bytes(block.bytes())

    def insert(self, form: str, body: Iterator[bytes]) -> None:
        """Runs an INSERT with the rows in `body`. If `body` breaks off, written blocks are kept, as on a server."""
        with self._connection.send_insert(self._statement.sql, form) as inserter:
            for piece in body:
                inserter.append(piece)
            result = inserter.finish()
        self.summary = Summary(
            written_rows=result.rows_written, written_bytes=result.bytes_written, elapsed_ns=int(result.elapsed * 1e9)
        )


def _from_code(message: str) -> str:
    """Removes the text that chDB puts before ClickHouse's message."""
    return message[max(message.find("Code: "), 0) :].strip()
