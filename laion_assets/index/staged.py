"""Builds the graphs of one partition in a staging table, and swaps the partition with its graphs in.

The partition's parts are linked into a staging table by hard links, and the mutation that builds the graphs belongs to
that staging table alone. The table itself gets one REPLACE PARTITION, under the partition's lease, and only if its
parts are still those from which the graphs were built. So a build can end at any moment: the table is unchanged, and
the next load or build removes the staging table. Vectors are neither copied nor written again, unless rows of the
partition were deleted: then the remaining rows are written again, since the graphs must not have the deleted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from laion_assets.errors import TableError
from laion_assets.index.cells.same_rows import keep_cells
from laion_assets.index.cells.schema import cells_exist
from laion_assets.index.declared import declared_indexes
from laion_assets.index.part_sizes import index_bytes
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease, lease
from laion_assets.table.mutations import STALL_SECONDS, RowsRead, start_mutation, unfinished_mutations
from laion_assets.table.parts import active_parts, partition_contents
from laion_assets.table.patience import patiently
from laion_assets.table.schema import partitions
from laion_assets.table.scratch import drop_stale_staging
from laion_assets.table.staging import MERGE_SETTINGS, SYNCED, Staging, dropping, staging_name
from laion_assets.table.swap import swap_in


def index_partition(
    db: Database, shard: int, names: Sequence[str], *, rows_read: RowsRead, say: Callable[[str], None], stall: float
) -> None:
    """Builds the indexes of these names, which the table declares, in one partition, and swaps it in.

    A load of the same shard waits for the build, or the build waits for the load. Raises `LeaseHeldError`,
    `LeaseLostError`, `PartitionCheckError` if the partition was changed during the build, and `TableError` if the build
    fails or does not progress for `stall` seconds.
    """
    with lease(db, f"partition {shard}", say=say) as held:
        drop_stale_staging(db)
        found = active_parts(db, db.settings.table, shard)
        source = partition_contents(db).get(shard) if cells_exist(db) else None
        deleted = _has_deleted_rows(db, shard)
        # Linked files are synced already; those of a merge are synced if the table says so.
        with _linked(held, shard, SYNCED if deleted else "") as staging:
            if deleted:
                _leave_out_deleted_rows(staging, say)
            if staging.parts():
                _build(staging, names, rows_read, stall)
            _refuse_unfinished(db, shard)
            swap_in(held, staging, staging.parts(), replaces=found)
        now = patiently(lambda: partition_contents(db)).get(shard)
        if source is not None and now is not None:
            keep_cells(db, source, now, say)


def graphs_like_the_replaced(db: Database, say: Callable[[str], None]) -> Callable[[Staging], None]:
    """A function that a load calls with its staged and checked part before the swap. It builds the graphs that the
    replaced partition has, so that searches do not lose them.

    It builds nothing if the replaced partition has none: the next milestone then builds its graphs.
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
def _linked(held: Lease, shard: int, more_settings: str = "") -> Iterator[Staging]:
    """A staging table with the table's columns, indexes and settings, and with links to the partition's parts."""
    db = held.db
    staging = Staging(db, shard, staging_name(held, shard))
    db.command(
        f"CREATE TABLE {staging.quoted} AS {db.table} ENGINE = MergeTree {_keys_and_settings(db)}{more_settings}"
    )
    with dropping(staging):
        db.command(f"ALTER TABLE {staging.quoted} ATTACH PARTITION {shard} FROM {db.table}")
        yield staging


def _has_deleted_rows(db: Database, shard: int) -> bool:
    """Whether a lightweight DELETE has marked rows of a partition."""
    return any(state.deleted_rows for state in partitions(db) if state.shard == shard)


def _leave_out_deleted_rows(staging: Staging, say: Callable[[str], None]) -> None:
    """Writes a staged partition again, without its graphs and without the rows that are marked as deleted.

    If all rows were deleted, no part with rows is left.
    """
    before = sum(part.rows for part in staging.parts())
    merge = f"OPTIMIZE TABLE {staging.quoted} PARTITION {staging.shard} FINAL"
    staging.db.for_long_statements().command(merge, settings=MERGE_SETTINGS)
    left = sum(part.rows for part in staging.parts())
    say(f"partition {staging.shard} is written again without {before - left:,} rows that were deleted by DELETE")


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
    built = patiently(lambda: index_bytes(copy, staging.name))
    lacking = [name for name in names if not built.get(name, (0, 0))[0]]
    if lacking:
        raise TableError(staging.subject, found=f"no {', '.join(lacking)} after its build", expected="its graph")


def _refuse_unfinished(db: Database, shard: int) -> None:
    """Refuses a table with an unfinished mutation, which would not be applied to a part that is swapped in later."""
    for mutation in unfinished_mutations(db):
        raise TableError(
            f"{db.subject}, partition {shard}",
            found=f"{mutation.id} ({mutation.commands[:200]}), which was begun while the graphs were built",
            expected="no mutation during the build, since the swap would undo it",
            advice="wait until the mutation ends, then build again",
        )
