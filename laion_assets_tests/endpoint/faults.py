"""Stores the faults between client and server that tests ask for. The endpoint carries the faults out."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cut", "lost", "status", "slow", "refused"]


@dataclass
class Fault:
    """A fault for the next `times` requests whose SQL matches the regular expression `match`.

    `cut`: the connection is closed after `amount` bytes of the request's body. `lost`: the statement is executed, and
    the connection is closed without an answer. `status`: the request gets HTTP status `amount` and is not executed.
    `slow`: the statement is executed after `amount` seconds. `refused`: it is not executed and gets ClickHouse's error
    code `amount`.
    """

    kind: Kind
    match: str
    amount: float = 0
    times: int = 1


class Faults:
    """The faults that have not happened yet."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Adds a fault."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Removes all faults."""
        with self._lock:
            self._waiting.clear()

    def next_for(self, sql: str) -> Fault | None:
        """The fault for this statement, or None."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and re.search(fault.match, sql):
                    fault.times -= 1
                    return fault
        return None
