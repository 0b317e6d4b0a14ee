"""Work that another thread may end, such as a search whose client is gone. It runs no statement itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from laion_assets.errors import EndedError, ServerUnreachableError, TableError


class Endable:
    """Work whose statements have `comment` as their `log_comment`, by which they can be found and killed.

    After `end` no further statement of it begins. A statement that had begun may not have reached ClickHouse yet, so it
    must be killed until `wait_for_statements` returns true. Safe for several threads.
    """

    def __init__(self, comment: str) -> None:
        self.comment = comment
        self._changed = threading.Condition()
        self._ended = False
        self._statements = 0

    def end(self) -> None:
        """No statement begins after this call."""
        with self._changed:
            self._ended = True

    def check(self) -> None:
        """Raises `EndedError` if the work was ended."""
        with self._changed:
            if self._ended:
                raise self._error()

    @contextlib.contextmanager
    def statement(self) -> Iterator[None]:
        """Around each statement of the work. Raises `EndedError` if the work was ended before, or meanwhile.

        A killed statement fails with `TableError`, which callers would take for a fault of the table. A connection that
        was cut stays an error of its own kind, since it must not be used again.
        """
        with self._changed:
            self.check()
            self._statements += 1
        try:
            yield
        except ServerUnreachableError:
            raise
        except TableError as error:
            with self._changed:
                ended = self._ended
            if ended:
                raise self._error() from error
            raise
        finally:
            with self._changed:
                self._statements -= 1
                self._changed.notify_all()

    def wait_for_statements(self, seconds: float) -> bool:
        """Waits until no statement of the work runs; false if one still runs after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._statements, seconds)

    def _error(self) -> EndedError:
        return EndedError("a search", found="that it was ended", expected="somebody who waits for its answer")
