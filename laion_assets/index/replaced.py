"""Declares the indexes that the settings ask for, and drops those with other parameters once the new ones are used."""

from __future__ import annotations

from collections.abc import Sequence

from laion_assets.errors import TableError
from laion_assets.index.counter import graphs_searched
from laion_assets.index.cover import PartitionCover
from laion_assets.index.declared import Indexes, declared_indexes, wanted_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.progress import Log
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions
from laion_assets.words import duration


def declare_indexes(db: Database, log: Log) -> None:
    """Declares the indexes that the settings ask for, unbuilt. Indexes of these columns with other parameters stay."""
    declared = declared_indexes(db)
    wanted = wanted_indexes(db, declared)
    lacking = {name: what for name, what in wanted.items() if declared.get(name) != what}
    if not lacking:
        return
    old = _replaced(declared, wanted)
    if old:
        log(f"{_named(old)}: replaced, since settings ask for {IndexParameters.of(db.settings)}. {_rebuild_cost(db)}")
    additions = [f"ADD INDEX {name} {column} TYPE {kind}" for name, (column, kind) in lacking.items()]
    db.command(f"ALTER TABLE {db.table} {', '.join(additions)}", settings={"mutations_sync": 2, "alter_sync": 2})


def drop_replaced(db: Database, cover: Sequence[PartitionCover], log: Log) -> bool:
    """Drops the indexes with other parameters, if there are any, once every partition has the new ones.

    Returns whether there were any. Before that, each new index is used for a search. Raises `TableError` if that search
    did not use the graph of every part; the old indexes then stay.
    """
    declared = declared_indexes(db)
    wanted = wanted_indexes(db, declared)
    old = _replaced(declared, wanted)
    if not old or not all(state.covered for state in cover):
        return False
    for name, (column, _) in wanted.items():
        _prove(db, name, column, [*old], sum(state.parts for state in cover))
    _drop(db, [*old])
    log(f"{_named(old)}: dropped; every partition has {', '.join(wanted)} ({IndexParameters.of(db.settings)})")
    return True


def _replaced(declared: Indexes, wanted: Indexes) -> Indexes:
    columns = {column for column, _ in wanted.values()}
    return {name: what for name, what in declared.items() if name not in wanted and what[0] in columns}


def _named(indexes: Indexes) -> str:
    return "; ".join(f"{name} ({kind})" for name, (_, kind) in indexes.items())


def _prove(db: Database, name: str, column: str, others: Sequence[str], parts: int) -> None:
    """Searches with the index `name` alone. Raises `TableError` unless the graphs of all `parts` were searched."""
    before = graphs_searched(db)
    db.rows(
        f"WITH (SELECT {column} FROM {db.table} LIMIT 1) AS target "
        f"SELECT id FROM {db.table} ORDER BY cosineDistance({column}, target) LIMIT 1",
        settings={"ignore_data_skipping_indices": ",".join(others)},
    )
    searched = graphs_searched(db) - before
    if searched < parts:
        raise TableError(
            db.subject,
            found=f"a search by {name} went through {searched} graphs",
            expected=f"{parts}, one for each part, before {', '.join(others)} are dropped",
            advice="the old indexes stay; build again",
        )


def _drop(db: Database, names: Sequence[str]) -> None:
    """Drops the indexes. ClickHouse runs this as a mutation, which gives each part a new version by hard links."""
    commands = ", ".join(f"DROP INDEX {name}" for name in names)
    db.command(f"ALTER TABLE {db.table} {commands}", settings={"mutations_sync": 2, "alter_sync": 2})


def _rebuild_cost(db: Database) -> str:
    rows = sum(state.rows for state in partitions(db))
    columns = len(db.settings.dataset.vector_columns)
    parameters, dimension = IndexParameters.of(db.settings), db.settings.dataset.dimension
    seconds = parameters.core_seconds(rows * columns, dimension)
    size = parameters.bytes_a_vector(dimension) * rows * columns
    return (
        f"Building them over {rows:,} rows takes about {duration(seconds)} of one core and {size / 1e9:,.2f} GB "
        "beside the old ones, which are searched until then"
    )
