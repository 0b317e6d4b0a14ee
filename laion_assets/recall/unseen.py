"""Chooses queries that the measured graphs have never seen. It searches nothing.

A graph that holds a query's own row links it to that row's nearest neighbours, and finds more than it would for a
user's query. With 40,000 rows in one part (ef_search 16), image→image recall was .945; for queries of other shards it
was .828. Rows can neither be taken out of a graph nor kept out of the table, which holds every row of its shards. So a
query from partition A is searched in all partitions but A, whose graphs have never seen it, and its true neighbours are
those in the same partitions. If there is no second partition of sufficient size, the largest partition is copied
without the queries, and the copy gets its own graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import trial_table
from laion_assets.recall.queries import OVERSAMPLE, QuerySet, unseen_sets
from laion_assets.table.database import Database
from laion_assets.table.nodes import connect_to_node, nodes
from laion_assets.table.schema import PartitionState, partitions
from laion_assets.table.vectors import Ids, draw_rows

FEWEST_ROWS = 100
"""Least rows of a partition to be copied without its queries: in a smaller one every search reads the whole graph."""

OTHER_PARTITIONS = "rows of the table, each searched in all partitions but its own"
COPY = "rows of the one large partition, searched in a copy of it without them"
OWN_ROW = "rows of the table, each without itself"
KEPT_OUT = "rows of the table that were kept out of the trial"


@dataclass(frozen=True)
class UnseenQueries:
    """Query sets, the database whose table they are asked on, their origin in words, and the partitions of that table
    that are searched; None means all."""

    db: Database
    sets: list[QuerySet]
    origin: str
    shards: tuple[int, ...] | None = None


@contextmanager
def unseen_queries(
    db: Database,
    count: int,
    seed: int,
    *,
    in_graphs: bool,
    log: Callable[[str], None],
    shards: tuple[int, ...] | None = None,
) -> Iterator[UnseenQueries]:
    """Up to `count` queries of each kind. If `in_graphs` is false, a row is never found through its own neighbours, so
    leaving out the row itself is enough. With `shards`, only these partitions are used.

    Raises `TableError`.
    """
    states = [state for state in partitions(db) if shards is None or state.shard in shards]
    largest = max(states, key=lambda state: state.rows)
    others = _of_half_or_less(states)
    wanted = OVERSAMPLE * count
    if not in_graphs:
        drawn = draw_rows(db, wanted, seed, shards)
        yield UnseenQueries(db, unseen_sets(db, drawn, count, seed, "row"), OWN_ROW, shards)
    elif sum(state.rows for state in others) >= wanted:
        drawn = draw_rows(db, wanted, seed, [state.shard for state in others])
        yield UnseenQueries(db, unseen_sets(db, drawn, count, seed, "partition"), OTHER_PARTITIONS, shards)
    elif largest.rows >= FEWEST_ROWS:
        # The graphs must keep nearly all rows, since recall rises as a part gets smaller.
        kept_out = min(wanted, max(count, largest.rows // 20), largest.rows // 4)
        with _copied_without(db, largest, kept_out, seed, log) as (source, copy, drawn):
            yield UnseenQueries(copy, unseen_sets(source, drawn, count, seed, "nothing"), COPY)
    else:
        drawn = draw_rows(db, wanted, seed, shards)
        yield UnseenQueries(db, unseen_sets(db, drawn, count, seed, "row"), OWN_ROW, shards)


def kept_out_queries(db: Database, trial: Database, count: int, seed: int) -> UnseenQueries:
    """Queries from the rows that `trial_table(db, kept_out=rows_kept_out(count), seed=seed)` left out of `trial`."""
    drawn = draw_rows(db, rows_kept_out(count), seed)
    return UnseenQueries(trial, unseen_sets(db, drawn, count, seed, "nothing"), KEPT_OUT)


def rows_kept_out(count: int) -> int:
    """Number of rows to keep out of a trial for `count` queries of each kind."""
    return OVERSAMPLE * count


def _of_half_or_less(states: list[PartitionState]) -> list[PartitionState]:
    """Partitions with at most half of all rows: without one of them, a search still reads most of its usual rows."""
    rows = sum(state.rows for state in states)
    return [state for state in states if 2 * state.rows <= rows]


@contextmanager
def _copied_without(
    db: Database, state: PartitionState, kept_out: int, seed: int, log: Callable[[str], None]
) -> Iterator[tuple[Database, Database, Ids]]:
    """The database with a partition, a copy of the partition without some rows but with graphs, and those rows."""
    with (
        _holding(db, state.shard) as source,
        trial_table(
            source,
            rows=state.rows - kept_out,
            partitions=1,
            seed=seed,
            index_granularity=source.settings.index_granularity,
            parameters=IndexParameters.of(source.settings),
            kept_out=kept_out,
            shards=[state.shard],
        ) as copy,
    ):
        log(
            f"partition {state.shard} holds most of the rows: its graphs have seen every query of it. Building graphs "
            f"over a copy of it without {kept_out:,} rows, from which the queries are taken"
        )
        build_indexes(copy, log=log)
        yield source, copy, draw_rows(source, kept_out, seed, [state.shard])


@contextmanager
def _holding(db: Database, shard: int) -> Iterator[Database]:
    """The database whose own table has a partition; in a cluster, that of the first node that has it."""
    if db.settings.cluster is None:
        yield db
        return
    for node in nodes(db):
        with connect_to_node(db, node) as here:
            if any(state.shard == shard for state in partitions(here)):
                yield here
                return
    raise TableError(
        db.subject, found=f"partition {shard} on no node", expected="the partition on a node of the cluster"
    )
