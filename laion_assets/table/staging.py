"""The table in which a shard is loaded and checked before it takes its place, and what tells that it is unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from laion_assets.errors import LeaseLostError, ServerUnreachableError, TableError
from laion_assets.table import inserting
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease
from laion_assets.table.parts import Part, active_parts
from laion_assets.table.schema import table_definition

NO_BACKGROUND_MERGES = ", max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
"""Settings that only merges in the background obey. SYSTEM STOP MERGES would hold OPTIMIZE, too, and once it is started
again a merge may begin before OPTIMIZE does."""


SYNCED = ", min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1"
"""The files of the part that a merge makes are brought to the disk before it counts, which ClickHouse leaves to the
kernel by itself. Loads of 100,000 rows took 27.5 s so and 28.7 s without, in turns on a busy machine, which is noise;
with `fsync_after_insert`, which syncs each part that is merged away, too, 35.2 s."""

SYNCED_ON_INSERT = ", fsync_after_insert = 1"
"""For a shard of one inserted part, which is not merged."""


@dataclass(frozen=True)
class Staging:
    """A staging table of one load: no other load has its name, since the lease's token is in it."""

    db: Database
    shard: int
    name: str

    @property
    def quoted(self) -> str:
        """As statements name it."""
        return self.db.name_of(self.name)

    @property
    def subject(self) -> str:
        """How errors name it."""
        return f"{self.db.subject}, partition {self.shard}"

    def parts(self) -> tuple[Part, ...]:
        """Its active parts. Raises `LeaseLostError` when it is not there any more."""
        found = active_parts(self.db, self.name, self.shard)
        if not found and not self._exists():
            raise LeaseLostError(
                self.subject,
                found=f"no staging table {self.name} any more",
                expected="it until the swap; only a load that takes over a lapsed lease drops it",
                advice="the table is as it was: load the shard again",
            )
        return found

    def _exists(self) -> bool:
        names = {"database": self.db.database, "table": self.name}
        sql = "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = {table:String}"
        return bool(self.db.rows(sql, parameters=names))

    def drop(self) -> None:
        """Removes it."""
        self.db.command(f"DROP TABLE IF EXISTS {self.quoted} SYNC")


@contextmanager
def staging_table(held: Lease, shard: int, rows: int) -> Iterator[Staging]:
    """An empty staging table for so many rows, of the table's shape, without its indexes; it goes at the end.

    REPLACE PARTITION takes a part without an index into a table with one, but not the other way round. No merge in the
    background ever has room enough, or rows were written once more before the one merge that is wanted.
    """
    staging = Staging(held.db, shard, staging_name(held, shard))
    create_staging(staging, rows)
    with dropping(staging):
        yield staging


@contextmanager
def dropping(staging: Staging) -> Iterator[None]:
    """Removes a staging table at the end of the block, however it ends.

    A server that is gone keeps the table until a later load, which drops those whose lease is over.
    """
    try:
        yield
    except ServerUnreachableError:
        with suppress(TableError):
            staging.drop()
        raise
    except BaseException:
        staging.drop()
        raise
    staging.drop()


def create_staging(staging: Staging, rows: int) -> None:
    """Makes it for a shard of so many rows. Raises `TableError`."""
    synced = SYNCED + (SYNCED_ON_INSERT if rows <= inserting.PART_ROWS else "")
    staging.db.command(table_definition(staging.db, staging.name) + NO_BACKGROUND_MERGES + synced)


def staging_name(held: Lease, shard: int) -> str:
    """The name, unquoted, of the staging table of a shard under a lease; `scratch.SHARD_STAGING` finds it."""
    return f"{held.db.settings.table}_staging_{shard}_{held.token}"
