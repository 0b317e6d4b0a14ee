"""What can go wrong between a client and a server, as tests ask for it. It does none of it itself."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal

Kind = Literal["cut", "lost", "status", "slow"]


@dataclass
class Fault:
    """Happens to the next `times` requests whose SQL has `match`, a regular expression.

    `cut`: after `amount` bytes of the request's body the connection is closed. `lost`: the statement is carried out,
    and then the connection is closed without an answer. `status`: it is answered with HTTP status `amount` and not
    carried out. `slow`: it is carried out after `amount` seconds.
    """

    kind: Kind
    match: str
    amount: float = 0
    times: int = 1


class Faults:
    """The faults that are still to happen."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """One more."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._waiting.clear()

    def next_for(self, sql: str) -> Fault | None:
        """What is to happen to this statement."""
        with self._lock:
            for fault in self._waiting:
                if fault.times > 0 and re.search(fault.match, sql):
                    fault.times -= 1
                    return fault
        return None
