"""Opens ClickHouse, embedded (chDB) or a server, from one URL, and turns its errors into ours. It states no DDL."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.binding import format_str, quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from laion_assets.cgroup import allowed_cores
from laion_assets.errors import EngineHeldError, TableError
from laion_assets.settings import Settings
from laion_assets.table.failures import first_sentence, typed_errors, unloadable
from laion_assets.table.functions import embedded_function_options
from laion_assets.table.label import label
from laion_assets.table.recovery import finish_interrupted_swaps
from laion_assets.table.server import Address, close_server, hurry_answers, limit_answers, open_server
from laion_assets.waiting import say_wait

logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())
"""It logs what it raises, which would be a second line for each of our errors."""

Row = Sequence[Any]

_engines: list[tuple[Path, Settings]] = []
_engines_lock = threading.RLock()
"""The embedded engines that this process has open, once for each connection."""

KILL_SECONDS = 2.0
"""So long a server that does not answer may hold up the end of an interrupted step."""


@dataclass(frozen=True)
class Database:
    """One open connection, with the names of the table that everything is about.

    `embedded` is chDB: it can read our files, and is not for use by two threads at once. A server is, since there is no
    session; there a statement may take `seconds`. `kept` is what was found out over this connection, for later calls.
    """

    client: Client
    settings: Settings
    database: str
    embedded: bool
    seconds: float = 0.0
    kept: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def table(self) -> str:
        """The table, quoted and with its database."""
        return self.name_of(self.settings.table)

    def name_of(self, table: str) -> str:
        """Any table of our database, quoted."""
        return f"{quote_identifier(self.database)}.{quote_identifier(table)}"

    def for_long_statements(self) -> Database:
        """The same connection, whose statements may take as long as one of a load (LAION_CLICKHOUSE_LOAD_SECONDS)."""
        return replace(self, seconds=self.settings.clickhouse_load_seconds)

    def command(
        self, sql: str, *, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        """Runs a statement that returns no rows. Raises `TableError`."""
        with self.limited(settings) as given:
            self.client.command(sql, parameters=dict(parameters or {}), settings=given)

    def rows(
        self,
        sql: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, object] | None = None,
        text_as_bytes: bool = False,
    ) -> list[Row]:
        """The rows of a query. Raises `TableError`.

        Text comes as `str`, and in hexadecimal where it is not UTF-8 (the client's way), or all of it as `bytes`.
        """
        with self.limited(settings) as given:
            result = self.client.query(
                sql,
                parameters=dict(parameters or {}),
                settings=given,
                query_formats={"String": "bytes"} if text_as_bytes else None,
            )
            return list(result.result_rows)

    def raw(self, sql: str, fmt: str, *, settings: Mapping[str, object] | None = None) -> bytes:
        """The answer of a query in one of ClickHouse's formats, as it comes. Raises `TableError`."""
        with self.limited(settings) as given:
            return self.client.raw_query(sql, fmt=fmt, settings=given)

    @contextlib.contextmanager
    def limited(self, settings: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
        """For a call of the client: the statement's settings with its time limit, and failures as our errors."""
        given: dict[str, Any] = dict(settings or {})
        if self.embedded:
            with typed_errors(self.subject):
                yield given
            return
        seconds = self.seconds or self.settings.clickhouse_search_seconds
        given.setdefault("max_execution_time", round(seconds))
        given.setdefault("query_id", f"laion_assets-{uuid.uuid4()}")
        limit_answers(self.client, self.settings, seconds)
        try:
            with typed_errors(self.subject, Address.of(self.settings.clickhouse_url.get_secret_value()).password):
                yield given
        except BaseException as error:
            if not isinstance(error, Exception):
                self._kill(given["query_id"])
            raise

    def _kill(self, query_id: str) -> None:
        """Ends a statement on a server, which would go on without us: an interrupt came while it was awaited."""
        hurry_answers(self.client, KILL_SECONDS)
        with contextlib.suppress(ClickHouseError, HTTPError):
            self.client.query("KILL QUERY WHERE query_id = {id:String} ASYNC", parameters={"id": query_id})

    def one(
        self, sql: str, *, parameters: Mapping[str, Any] | None = None, settings: Mapping[str, object] | None = None
    ) -> Row:
        """The only row of a query. Raises `TableError`."""
        rows = self.rows(sql, parameters=parameters, settings=settings)
        if len(rows) != 1:
            raise TableError(self.subject, found=f"{len(rows)} rows", expected="one row")
        return rows[0]

    @property
    def subject(self) -> str:
        """How errors name the table; no password is in it."""
        return f"table {self.database}.{self.settings.table}"


@contextlib.contextmanager
def connect(settings: Settings, *, wait_seconds: float | None = None) -> Iterator[Database]:
    """Opens the database that the settings name and closes it at the end of the block.

    The embedded engine's folder belongs to one process at a time, so it is opened for a step and given back; where it
    is held this waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`), then raises `EngineHeldError`.
    Raises `ServerUnreachableError` and `ServerRefusedError` as `open_server` does.
    """
    url = settings.clickhouse_url.get_secret_value()
    parts = urlsplit(url)
    engine = (Path(unquote(parts.netloc + parts.path)), settings) if parts.scheme == "chdb" else None
    if engine is not None:
        client = _open_embedded(*engine, wait_seconds)
        database = "default"
    else:
        client = open_server(settings)
        database = Address.of(url).database
    try:
        with _counted(engine):
            opened = Database(client, settings, database, engine is not None)
            if label():
                _set_label(opened)
            if database != "default":
                _use_database(opened)
            if opened.embedded:
                finish_interrupted_swaps(opened)
            yield opened
    finally:
        close_server(client)


def _set_label(db: Database) -> None:
    """For all statements of the connection: by itself the embedded client sets and resets what a statement is given."""
    if db.embedded:
        db.command(f"SET log_comment = {format_str(label())}")
    else:
        db.client.set_client_setting("log_comment", label())


@contextlib.contextmanager
def _counted(engine: tuple[Path, Settings] | None) -> Iterator[None]:
    """Has `engines_in_use` know an embedded engine within the block."""
    if engine is None:
        yield
        return
    with _engines_lock:
        _engines.append(engine)
    try:
        yield
    finally:
        with _engines_lock:
            _engines.remove(engine)


@contextlib.contextmanager
def engines_in_use() -> Iterator[dict[Path, Settings]]:
    """The folders of the embedded engines that this process has open; none is closed within the block."""
    with _engines_lock:
        yield dict(_engines)


def embedded_client(folder: Path, settings: Settings) -> Client:
    """A client of an embedded engine; a process may have several, each for one thread. Close it.

    Raises `TableError`.
    """
    options = embedded_options(settings)
    try:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder), chdb_options=options)
    except ImportError as error:
        raise unloadable(error) from error


def _use_database(db: Database) -> None:
    """Makes the database where it is not there: a user who may not make any then needs none to be made."""
    names = {"name": db.database}
    if not db.rows("SELECT 1 FROM system.databases WHERE name = {name:String}", parameters=names):
        db.command(f"CREATE DATABASE IF NOT EXISTS {quote_identifier(db.database)}")
    db.client.database = db.database


def embedded_options(settings: Settings) -> dict[str, str]:
    """Server settings for the embedded engine: index cache, build threads, memory limit (0 leaves its own), functions.

    The engine's own 16 build threads spin on each other's node locks where they are more than the cores: on 2 cores
    they took 1.4 to 1.6 times the core-seconds of 2 threads (20,000 vectors, M 16).

    A mutation gives every part a new version, most of them by links alone. The engine takes on as many at a time as the
    ratio says, a multiple of its 2 threads: with its own ratio of 2 four, and then it pauses for most of a second. To
    index one of 200 partitions took 28 s, with a ratio of 100 0.2 s.
    """
    options = {
        "vector_similarity_index_cache_size": str(settings.index_cache_bytes),
        "max_build_vector_similarity_index_thread_pool_size": str(settings.index_build_threads or available_cores()),
        "background_merges_mutations_concurrency_ratio": "100",
        **embedded_function_options(settings),
    }
    if settings.clickhouse_memory_bytes:
        options["max_server_memory_usage"] = str(settings.clickhouse_memory_bytes)
    return options


def available_cores() -> int:
    """How many cores this process may use: what `taskset` and a container's cpuset leave it, and a quota of CPU time.

    Threads beyond a quota are stopped together for the rest of each period of 100 ms once it is used up.
    """
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = allowed_cores()
    return here if quota is None else min(here, max(1, math.ceil(quota)))


def _open_embedded(folder: Path, settings: Settings, wait_seconds: float | None) -> Client:
    subject = f"embedded ClickHouse in {folder}"
    if "?" in str(folder):
        # chDB would take the rest of the path for options, and open another folder.
        raise TableError(subject, found="a ? in the path", expected="a path without it", advice="move LAION_DATA_DIR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(subject, found=f"{error.strerror}", expected="a folder that can be written") from error
    wait_seconds = settings.clickhouse_wait_seconds if wait_seconds is None else wait_seconds
    deadline = time.monotonic() + wait_seconds
    failures = 0
    told = False
    while True:
        # Asked first: the engine would write a line of its own to standard error at each try.
        holder = _holder(folder)
        if holder is None:
            _require_writable(folder, subject)
            try:
                return embedded_client(folder, settings)
            except ClickHouseError as error:
                failures += 1
                holder = _holder(folder)
                # Once is no proof: another process may have opened it, or asked as we do, at the same moment.
                if holder is None and failures > 1:
                    raise TableError(
                        subject,
                        found=_why_not_written(folder) or first_sentence(error),
                        expected="a folder that the engine can open",
                        advice="see that it can be written and was not made by a newer version",
                    ) from error
        if holder is not None and not told:
            say_wait(f"the {subject}, held by {holder}", wait_seconds)
            told = True
        if holder is not None and time.monotonic() >= deadline:
            raise EngineHeldError(
                subject,
                found=f"held by {holder}",
                expected=f"it to be free within {wait_seconds:g} s",
                advice="wait for that step to end, or use a ClickHouse server (LAION_CLICKHOUSE)",
            )
        time.sleep(0.25)


def _require_writable(folder: Path, subject: str) -> None:
    """Raises `TableError` where the engine may not write: it would tell so on standard error in its own words, too."""
    for path in (folder, folder / "status"):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise TableError(
                subject,
                found=_why_not_written(folder) or f"that this user may not write {path}",
                expected="a folder that the engine can open",
                advice="see that it can be written, by the user who runs this; LAION_DATA_DIR names another",
            )


def _why_not_written(folder: Path) -> str | None:
    """Why nothing can be written into a folder (the engine does not say); None where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _holder(folder: Path) -> str | None:
    """Which other process holds an embedded engine's folder, in words; None when none does.

    A process may open its own engine several times: a cluster's node is asked beside the connection that names it.
    """
    process = holding_process(folder)
    if process is None or process == os.getpid():
        return None
    return f"process {process}" if process else "another process"


def holding_process(folder: Path) -> int | None:
    """Which process holds an embedded engine's folder, by its `status` file: 0 for one that is not named there, None
    when none does.

    The engine reports a held folder in two ways, one of which has no reason in it, so its lock is asked directly.
    """
    status = folder / "status"
    try:
        with status.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = re.search(r"PID: (\d+)", file.read())
                return int(found[1]) if found else 0
    except OSError:
        return None
    return None
