"""Connections that several threads share, and that can release the embedded engine. It makes no statement."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

from laion_assets.errors import ServerUnreachableError
from laion_assets.machine import available_cores
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.endable import Endable

ENDED_SECONDS = 0.25
"""Interval at which work that waits for a connection checks whether it was ended."""


class Connections:
    """The connections of one process to one table; safe for several threads.

    A server has one connection for all threads; its client opens as many sockets as it needs. The embedded engine has
    one connection for each thread that searches, at most as many as there are cores; further threads wait. Connections
    stay open until `give_back` or `close`. The next call after `give_back` opens the engine again.
    """

    def __init__(self, settings: Settings) -> None:
        embedded = settings.clickhouse_url.get_secret_value().startswith("chdb:")
        self.size = max(1, available_cores())
        self._settings = settings
        self._shared = not embedded
        self._kept: dict[str, object] = {}
        self._changed = threading.Condition()
        self._idle: list[_Open] = []
        self._lent = 0
        self._giving_back = False

    @property
    def is_open(self) -> bool:
        """Whether a connection is open, so that an embedded engine is held."""
        with self._changed:
            return bool(self._idle) or self._lent > 0

    @contextlib.contextmanager
    def borrowed(self, task: Endable | None = None) -> Iterator[Database]:
        """A connection for one thread, and for `task` if that may be ended. Raises as `connect` does, and `EndedError`
        if the work is ended before it has a connection."""
        connection = self._take(task)
        broken = False
        try:
            yield replace(connection.db, task=task)
        except ServerUnreachableError:
            broken = True
            raise
        finally:
            self._bring(connection, broken or connection.db.closed.is_set())

    def give_back(self) -> None:
        """Waits for the running searches, then closes every connection."""
        with self._changed:
            self._changed.wait_for(lambda: not self._giving_back)
            self._giving_back = True
            try:
                self._changed.wait_for(lambda: self._lent == 0)
                while self._idle:
                    self._idle.pop().close()
            finally:
                self._giving_back = False
                self._changed.notify_all()

    close = give_back

    def _take(self, task: Endable | None) -> _Open:
        with self._changed:
            self._wait_until_free(task)
            self._lent += 1
            if self._idle:
                return self._idle[-1] if self._shared else self._idle.pop()
            try:
                # Only one thread at a time opens: two at once would open two engines of one folder, or two clients.
                connection = _Open(self._settings, self._kept)
            except BaseException:
                self._lent -= 1
                self._changed.notify_all()
                raise
            if self._shared:
                self._idle.append(connection)
            return connection

    def _wait_until_free(self, task: Endable | None) -> None:
        free = False
        while not free:
            free = self._changed.wait_for(
                lambda: not self._giving_back and (self._shared or self._lent < self.size),
                None if task is None else ENDED_SECONDS,
            )
            if task is not None:
                task.check()

    def _bring(self, connection: _Open, broken: bool) -> None:
        with self._changed:
            self._lent -= 1
            if broken:
                if connection in self._idle:
                    self._idle.remove(connection)
                if not self._shared or self._lent == 0:
                    connection.close()
            elif not self._shared:
                self._idle.append(connection)
            self._changed.notify_all()


class _Open:
    """One open connection. What is found out over one connection is kept for all of them."""

    def __init__(self, settings: Settings, kept: dict[str, object]) -> None:
        self._stack = contextlib.ExitStack()
        self.db = replace(self._stack.enter_context(connect(settings)), kept=kept)

    def close(self) -> None:
        self._stack.close()
