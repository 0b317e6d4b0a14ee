"""ClickHouse's own counters of a search, read by the search's statement itself. This module searches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laion_assets.searching.method_statements import Statement

READ_SECONDS = 10.0
"""Seconds during which a count is used again over one connection. Counting costs 2 ms of CPU time, a search 8."""


@dataclass(frozen=True)
class Use:
    """How many graphs were searched, and how many parts were read; parts without a graph were scanned."""

    graphs: int
    parts: int

    @property
    def scanned(self) -> bool:
        """Whether every part was scanned, which means that the answer is exact."""
        return self.parts > 0 and self.graphs == 0


def counting(statement: Statement) -> Statement:
    """The statement with one more row, which has the counters of the statement's own query.

    The counters are read when the row is planned. Graphs are searched during planning, too, so the row has their number
    although it is read together with the answer.
    """
    counters = (
        "SELECT -1.0, '', '', toUInt16(ProfileEvents['USearchSearchCount']), "
        "toInt64(ProfileEvents['SelectedParts']), '' FROM system.processes WHERE query_id = queryID()"
    )
    sql = f"SELECT * FROM ({statement.sql}) UNION ALL {counters}"
    return Statement(sql, statement.settings)


def counted(rows: Sequence[Sequence[Any]]) -> tuple[list[Sequence[Any]], Use | None]:
    """Splits the rows of a statement of `counting` into the answer's rows, nearest first, and the counters.

    The counters are None if the server does not show a query its own counters.
    """
    answer = sorted((row for row in rows if row[0] != -1.0), key=lambda row: float(row[0]))
    counters = [row for row in rows if row[0] == -1.0]
    return answer, Use(int(counters[0][3]), int(counters[0][4])) if counters else None
