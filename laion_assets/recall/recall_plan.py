"""What an evaluation does: how many queries of each kind, and which search settings are tried. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laion_assets.recall.figures import SearchSettings
from laion_assets.table.schema import PartitionState

ROWS_A_QUERY, LEAST_QUERIES = 500, 30
"""Of a small table fewer queries are asked. From 100,000 rows on, where a scan begins to be slower, it is 200."""

EXACT_SEARCHES = 20
"""Exact searches that are timed a kind: they are all alike, and on a large table slow."""

TIMED_SEARCHES = 20
"""Searches of all partitions that are timed at each search setting, where recall is that of all but one."""


@dataclass(frozen=True)
class RecallPlan:
    """What an evaluation does: queries a kind, their seed, and the settings that are tried.

    The first half of the queries is asked at every setting of the `grid` (the method's own, for parts of this size,
    unless given) and chooses among them. The second half is asked at the chosen settings alone, and its figures are
    reported: the best of many figures is too good on the queries that chose it. Recall@100 is measured with
    `queries_at_100` of the queries, 0 for not at all: with rescoring such a search reads ten times the rows, and its
    mean over queries is as steady with a quarter of them.
    """

    queries: int = 200
    seed: int = 0
    grid: Sequence[SearchSettings] | None = None
    queries_at_100: int = 50


def plan_for(states: Sequence[PartitionState], queries: int) -> RecallPlan:
    """The plan for a table of these partitions: one query for each 500 rows, at least 30, at most `queries`, and a
    quarter of them at 100."""
    rows = sum(state.rows for state in states)
    count = min(queries, max(LEAST_QUERIES, rows // ROWS_A_QUERY))
    return RecallPlan(count, queries_at_100=(count + 3) // 4)


def searches_a_kind(queries: int, settings: int) -> tuple[float, float]:
    """About how many searches for 10 and for 100 rows one kind takes at so many search settings, in a table of several
    partitions: the choosing half at each, some for the clock, two for the proof of use; then the reporting half."""
    half = queries / 2
    timed = min(half, TIMED_SEARCHES)
    return settings * (half + timed + 2) + 2 * half, (settings + 1) * max(1.0, queries / 8)
