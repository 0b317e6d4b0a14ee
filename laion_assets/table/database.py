"""One open connection to ClickHouse, with the table's names: how statements are run, limited, and ended.

`connect` opens it. This module runs no DDL.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from clickhouse_connect.driver.binding import format_str, quote_identifier
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from laion_assets.errors import TableError
from laion_assets.settings import Settings
from laion_assets.table.endable import Endable
from laion_assets.table.failures import typed_errors
from laion_assets.table.server import Address, limit_answers, limit_every_wait

Row = Sequence[Any]

KILL_SECONDS = 2.0
"""Seconds for which a server that does not answer may delay the end of an interrupted step."""


class OpenNodes:
    """Connections to other nodes of a cluster, by name; safe for threads. `silent` is when one did not answer."""

    def __init__(self) -> None:
        self.silent: dict[str, float] = {}
        self._open: dict[str, Database] = {}
        self._closing = contextlib.ExitStack()
        self._changing = threading.Lock()

    def get(self, name: str, opening: Callable[[], AbstractContextManager[Database]]) -> Database:
        """The connection of that name, opened where there is none. Raises what `opening` does."""
        if name in self._open:
            return self._open[name]
        # Opened without the lock: a node that does not answer would hold up those who ask others.
        with contextlib.ExitStack() as stack:
            mine = stack.enter_context(opening())
            with self._changing:
                first = self._open.setdefault(name, mine)
                if first is mine:
                    self._closing.push(stack.pop_all())
            return first

    def close(self) -> None:
        """Closes all of them."""
        with self._changing:
            self._open.clear()
            self._closing.close()


@dataclass(frozen=True)
class Replicas:
    """The replicas of a cluster shard: `numbers` are theirs where `clusterAllReplicas()` counts those of `cluster`."""

    cluster: str
    numbers: tuple[int, ...]

    def rows_of(self, database: str, table: str) -> str:
        """For FROM: the rows of a table, which is not replicated, on all of these replicas.

        Those of the server that is asked come first, by no way of the cluster, and may be there twice.
        """
        here = f"{quote_identifier(database)}.{quote_identifier(table)}"
        every = f"clusterAllReplicas({format_str(self.cluster)}, {here})"
        numbers = ", ".join(map(str, self.numbers))
        return f"(SELECT * FROM {here} UNION ALL SELECT * FROM {every} WHERE _shard_num IN ({numbers}))"


@dataclass(frozen=True)
class Database:
    """One open connection, with the names of the table.

    `embedded` means chDB, which can read our files, and must not be used by two threads at once. A server may be, since
    there is no session; on a server a statement may take `seconds`. `kept` is what was found out over this connection,
    for later calls. `others` are connections to other nodes, which are open as long as this one. `replicas` is set on a
    node of a cluster if the leases on its other replicas count, too. `closed` is set when the client was closed because
    its next answer could be wrong: no statement runs any more. `task` is set while the connection is used for work that
    another thread may end; every statement then has its comment.
    """

    client: Client
    settings: Settings
    database: str
    embedded: bool
    seconds: float = 0.0
    kept: dict[str, object] = field(default_factory=dict, repr=False, compare=False)
    others: OpenNodes = field(default_factory=OpenNodes, repr=False, compare=False)
    replicas: Replicas | None = None
    closed: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    task: Endable | None = field(default=None, repr=False, compare=False)

    @property
    def table(self) -> str:
        """The table, quoted and with its database."""
        return self.name_of(self.settings.table)

    def name_of(self, table: str) -> str:
        """Any table of our database, quoted."""
        return f"{quote_identifier(self.database)}.{quote_identifier(table)}"

    def for_long_statements(self) -> Database:
        """The same connection, on which a statement may take as long as in a load (LAION_CLICKHOUSE_LOAD_SECONDS)."""
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

        Text is `str`, in hexadecimal if it is not UTF-8 (as the client does); with `text_as_bytes` it is `bytes`.
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
        """The result of a query in one of ClickHouse's formats, unchanged. Raises `TableError`."""
        with self.limited(settings) as given:
            return self.client.raw_query(sql, fmt=fmt, settings=given)

    @contextlib.contextmanager
    def limited(self, settings: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
        """For a call of the client: gives the statement's settings with its time limit, and raises our errors.

        Raises `EndedError` if the connection's work was ended.
        """
        given: dict[str, Any] = dict(settings or {})
        if self.task is None:
            with self._limited(given):
                yield given
            return
        given["log_comment"] = self.task.comment
        with self.task.statement(), self._limited(given):
            yield given

    @contextlib.contextmanager
    def _limited(self, given: dict[str, Any]) -> Iterator[None]:
        if self.embedded:
            try:
                with typed_errors(self.subject):
                    yield
            except BaseException:
                self._discard_partial_answer()
                raise
            return
        seconds = self.seconds or self.settings.clickhouse_search_seconds
        given.setdefault("max_execution_time", round(seconds))
        given.setdefault("query_id", f"laion_assets-{uuid.uuid4()}")
        limit_answers(self.client, self.settings, seconds)
        try:
            with typed_errors(self.subject, Address.of(self.settings.clickhouse_url.get_secret_value()).password):
                yield
        except BaseException as error:
            if not isinstance(error, Exception):
                self._kill(given["query_id"])
            raise

    def _discard_partial_answer(self) -> None:
        """Reads what a statement wrote before it failed. chDB 26.9 would put it before the connection's next answer.

        Without this, a query that failed after 200,000 rows and a query of five rows gave 200,005 rows and no error. If
        the rest cannot be read, the client is closed: later statements then fail instead of giving wrong answers.
        """
        try:
            self.client.raw_query("SELECT 1", fmt="TabSeparated")
        except Exception:
            self.client.close()
            self.closed.set()

    def _kill(self, query_id: str) -> None:
        """Ends a statement on a server after an interrupt. Otherwise it would continue there."""
        limit_every_wait(self.client, KILL_SECONDS)
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
        """The table's name in errors, without a password."""
        return f"table {self.database}.{self.settings.table}"
