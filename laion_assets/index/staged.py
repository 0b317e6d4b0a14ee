"""Builds the graphs of one partition beside the table, and has the partition swapped in with them.

The partition's parts are brought into a staging table by hard links; the mutation that builds the graphs is one of that
table alone. The table itself sees one REPLACE PARTITION, under the partition's lease, and only if its parts are still
those that the graphs were built from. So a build can end at any moment: the table is as it was, and the staging table
goes with the next load or build. Vectors are neither copied nor written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from laion_assets.errors import TableError
from laion_assets.index.cells.events import sources
from laion_assets.index.cells.same_rows import keep_cells
from laion_assets.index.cells.schema import cells_exist
from laion_assets.index.declared import declared_indexes
from laion_assets.index.part_sizes import index_bytes
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease, lease
from laion_assets.table.mutations import STALL_SECONDS, RowsRead, start_mutation, unfinished_mutations
from laion_assets.table.parts import active_parts
from laion_assets.table.schema import partitions
from laion_assets.table.scratch import drop_stale_staging
from laion_assets.table.staging import Staging, dropping, staging_name
from laion_assets.table.swap import swap_in


def index_partition(
    db: Database, shard: int, names: Sequence[str], *, rows_read: RowsRead, say: Callable[[str], None], stall: float
) -> None:
    """Builds the indexes of these names, which the table declares, in one partition, and swaps it in.

    A load of the same shard waits meanwhile, or is waited for. Raises `LeaseHeldError`, `LeaseLostError`,
    `PartitionCheckError` where the partition was changed meanwhile, and `TableError` where the build
    fails or does not move for `stall` seconds.
    """
    with lease(db, f"partition {shard}", say=say) as held:
        drop_stale_staging(db)
        found = active_parts(db, db.settings.table, shard)
        source = sources(db).get(shard) if cells_exist(db) else None
        with _linked(held, shard) as staging:
            _build(staging, names, rows_read, stall)
            _refuse_unfinished(db, shard)
            swap_in(held, staging, staging.parts(), replaces=found)
        if source is not None:
            keep_cells(db, source, sources(db)[shard], say)


def graphs_like_the_replaced(db: Database, say: Callable[[str], None]) -> Callable[[Staging], None]:
    """What a load has to do with its staged and checked part before the swap: build the graphs that readers have now.

    Nothing where the partition that it replaces has none: it then gets them at the next milestone, with the others.
    """

    def build(staging: Staging) -> None:
        declared = declared_indexes(db)
        indexed = {state.shard for state in partitions(db) if state.index_bytes}
        if not declared or staging.shard not in indexed:
            return
        say(f"partition {staging.shard} had its graphs: they are built before the swap")
        additions = [f"ADD INDEX {name} {column} TYPE {kind}" for name, (column, kind) in declared.items()]
        db.command(f"ALTER TABLE {staging.quoted} {', '.join(additions)}", settings={"mutations_sync": 2})
        _build(staging, [*declared], lambda _: None, STALL_SECONDS)

    return build


@contextmanager
def _linked(held: Lease, shard: int) -> Iterator[Staging]:
    """A staging table with the table's columns, indexes and settings, and with links to the partition's parts."""
    db = held.db
    staging = Staging(db, shard, staging_name(held, shard))
    db.command(f"CREATE TABLE {staging.quoted} AS {db.table} ENGINE = MergeTree {_keys_and_settings(db)}")
    with dropping(staging):
        db.command(f"ALTER TABLE {staging.quoted} ATTACH PARTITION {shard} FROM {db.table}")
        yield staging


def _keys_and_settings(db: Database) -> str:
    """The table's keys and settings without its engine: a copy of a replicated table must not be a replica of it."""
    (engine,) = db.one(
        "SELECT engine_full FROM system.tables WHERE database = {database:String} AND name = {table:String}",
        parameters={"database": db.database, "table": db.settings.table},
    )
    return "PARTITION BY" + str(engine).partition(" PARTITION BY")[2]


def _build(staging: Staging, names: Sequence[str], rows_read: RowsRead, stall: float) -> None:
    copy = replace(staging.db, settings=staging.db.settings.model_copy(update={"table": staging.name}))
    mutation = start_mutation(copy, [f"MATERIALIZE INDEX {name}" for name in names])
    mutation.follow(copy, staging.subject, rows_read=rows_read, stall_seconds=stall)
    built = index_bytes(copy, staging.name)
    lacking = [name for name in names if not built.get(name, (0, 0))[0]]
    if lacking:
        raise TableError(staging.subject, found=f"no {', '.join(lacking)} after its build", expected="its graph")


def _refuse_unfinished(db: Database, shard: int) -> None:
    """A mutation of the table is never done in a part that is swapped in after it."""
    for mutation in unfinished_mutations(db):
        raise TableError(
            f"{db.subject}, partition {shard}",
            found=f"{mutation.id} ({mutation.commands[:200]}), which was begun while the graphs were built",
            expected="no mutation that the swap would undo",
            advice="wait for its end, then build again",
        )
