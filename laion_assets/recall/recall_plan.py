"""The plan of an evaluation: how many queries of each kind, and which search settings to try. It measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laion_assets.recall.figures import SearchSettings
from laion_assets.table.schema import PartitionState

ROWS_A_QUERY, LEAST_QUERIES = 500, 30
"""A smaller table gets fewer queries. From 100,000 rows on, where a scan begins to be slower, there are 200."""

EXACT_SEARCHES = 20
"""Exact searches that are timed for each kind: they are all alike, and slow on a large table."""

TIMED_SEARCHES = 20
"""Searches of all partitions timed at each search setting, if recall is measured with all partitions but one."""


@dataclass(frozen=True)
class RecallPlan:
    """The plan of an evaluation: queries of each kind, their seed, and the settings to try.

    The first half of the queries is asked at every setting of the `grid` (by default the method's own, for parts of
    this size) and chooses a setting. The second half is asked only at the chosen settings, and its figures are
    reported: the best of many figures is too good for the queries that chose it. Recall@100 is measured with
    `queries_at_100` of the queries, 0 means not at all. With rescoring such a search reads ten times the rows, and a
    quarter of the queries gives a mean that varies no more. With `shards`, queries, searches and true neighbours are
    those of these partitions.
    """

    queries: int = 200
    seed: int = 0
    grid: Sequence[SearchSettings] | None = None
    queries_at_100: int = 50
    shards: tuple[int, ...] | None = None


def plan_for(states: Sequence[PartitionState], queries: int) -> RecallPlan:
    """The plan for a table of these partitions: one query for each 500 rows, at least 30, at most `queries`, and a
    quarter of them for recall@100."""
    rows = sum(state.rows for state in states)
    count = min(queries, max(LEAST_QUERIES, rows // ROWS_A_QUERY))
    return RecallPlan(count, queries_at_100=(count + 3) // 4)


def searches_a_kind(queries: int, settings: int) -> tuple[float, float]:
    """About how many searches for 10 and for 100 rows one kind needs at `settings` search settings, in a table of
    several partitions: the choosing half at each setting, some for timing, two to prove the use; then the reporting
    half."""
    half = queries / 2
    timed = min(half, TIMED_SEARCHES)
    return settings * (half + timed + 2) + 2 * half, (settings + 1) * max(1.0, queries / 8)
