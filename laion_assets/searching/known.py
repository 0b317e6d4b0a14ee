"""Keeps what was found out about a table over one connection for the next search. It asks nothing itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from laion_assets.searching.condition import Condition
from laion_assets.searching.counters import READ_SECONDS, Use
from laion_assets.searching.graph_facts import GraphFacts
from laion_assets.searching.request import SearchRequest
from laion_assets.table.database import Database

Fact = TypeVar("Fact")

MOST_CONDITIONS = 1_000
"""Number of condition texts that are kept; when it is reached, all are dropped at once."""


@dataclass
class Known:
    """Checked conditions, by their text; for ten seconds, the counters of each kind of search, facts about
    graphs, and whether rows are hidden.

    Safe for several threads. After a failure all is dropped, since the table may be another one now.
    """

    conditions: dict[str, Condition] = field(default_factory=dict)
    uses: dict[object, tuple[float, Use | None]] = field(default_factory=dict)
    counts: bool = True
    recent: dict[str, tuple[float, object]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def condition(self, text: str, check: Callable[[str], Condition]) -> Condition:
        """The checked condition; `check` is called if the text is new."""
        with self._lock:
            found = self.conditions.get(text)
        if found is None:
            found = check(text)
            with self._lock:
                if len(self.conditions) >= MOST_CONDITIONS:
                    self.conditions.clear()
                self.conditions[text] = found
        return found

    def use_of(self, kind: object) -> Use | None:
        """The counters of searches of this kind within the last ten seconds; None if there are none."""
        with self._lock:
            at, use = self.uses.get(kind, (0.0, None))
        return use if use is not None and time.monotonic() - at < READ_SECONDS else None

    def note(self, kind: object, use: Use | None) -> None:
        """Keeps the counters of a search."""
        with self._lock:
            if len(self.uses) >= MOST_CONDITIONS:
                self.uses.clear()
            self.uses[kind] = (time.monotonic(), use)

    def graph_facts(self, read: Callable[[], GraphFacts]) -> GraphFacts:
        """The facts that were read within the last ten seconds; `read` is called if there are none."""
        return self._recent("graphs", read)

    def hides_rows(self, read: Callable[[], bool]) -> bool:
        """Whether rows are hidden from this user, as it was read within the last ten seconds, or is by `read` now."""
        return self._recent("hidden", read)

    def _recent(self, name: str, read: Callable[[], Fact]) -> Fact:
        with self._lock:
            at, kept = self.recent.get(name, (0.0, None))
        if kept is not None and time.monotonic() - at < READ_SECONDS:
            return cast(Fact, kept)
        found = read()
        with self._lock:
            self.recent[name] = (time.monotonic(), found)
        return found

    def forget(self) -> None:
        """Drops everything."""
        with self._lock:
            self.conditions.clear()
            self.uses.clear()
            self.counts = True
            self.recent.clear()


def known_of(db: Database) -> Known:
    """What is known of the table of this connection."""
    kept = db.kept.setdefault(f"known {db.table}", Known())
    assert isinstance(kept, Known)
    return kept


def kind_of(request: SearchRequest) -> object:
    """All that decides the plan of a search, besides the vector."""
    shards = (request.shards, request.without)
    return (request.by, request.limit, request.where, shards, request.settings, request.ids_alone)
