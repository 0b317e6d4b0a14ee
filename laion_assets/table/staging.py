"""The table in which a shard is loaded and checked before the swap, and a check that it has not changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from laion_assets.errors import LeaseLostError, ServerBusyError, ServerUnreachableError, TableError
from laion_assets.table import inserting
from laion_assets.table.database import Database
from laion_assets.table.lease import Lease
from laion_assets.table.parts import Part, active_parts
from laion_assets.table.patience import patiently
from laion_assets.table.schema import storage_policy, table_definition

NO_BACKGROUND_MERGES = ", max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
"""Settings that only background merges follow. SYSTEM STOP MERGES would stop OPTIMIZE, too, and after it is started
again a merge may begin before OPTIMIZE does."""


SYNCED = ", min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1"
"""The files of a merged part are synced to the disk before the part counts. By default ClickHouse leaves that to the
kernel. Loads of 100,000 rows took 27.5 s with it and 28.7 s without, alternately on a busy machine, which is noise.
With `fsync_after_insert`, which also syncs each part before the merge, they took 35.2 s."""

MERGE_SETTINGS: dict[str, object] = {"alter_sync": 2, "optimize_throw_if_noop": 1}
"""Without the second, a server that cannot merge, for example because its disk is too full, says that all went well."""

SYNCED_ON_INSERT = ", fsync_after_insert = 1"
"""For a shard that is inserted as one part, which is not merged."""


@dataclass(frozen=True)
class Staging:
    """A staging table of one load. Its name has the lease's token, so no other load has the same name."""

    db: Database
    shard: int
    name: str

    @property
    def quoted(self) -> str:
        """The name in statements."""
        return self.db.name_of(self.name)

    @property
    def subject(self) -> str:
        """The name in errors."""
        return f"{self.db.subject}, partition {self.shard}"

    def parts(self) -> tuple[Part, ...]:
        """Its active parts. Raises `LeaseLostError` if the table does not exist any more."""
        found = patiently(lambda: active_parts(self.db, self.name, self.shard))
        if not found and not patiently(self._exists):
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
        """Removes the table."""
        self.db.command(f"DROP TABLE IF EXISTS {self.quoted} SYNC")


@contextmanager
def staging_table(held: Lease, shard: int, rows: int) -> Iterator[Staging]:
    """An empty staging table for `rows` rows, of the table's shape, without its indexes; removed at the end.

    REPLACE PARTITION accepts a part without an index for a table with one, but not the other way round. Background
    merges are made impossible by their size limit. Otherwise rows would be written once more before the one merge that
    is wanted.
    """
    staging = Staging(held.db, shard, staging_name(held, shard))
    create_staging(staging, rows)
    with dropping(staging):
        yield staging


@contextmanager
def dropping(staging: Staging) -> Iterator[None]:
    """Removes a staging table at the end of the block, also after an error.

    If the server is gone or busy, the table stays until a later load, which drops tables whose lease is over.
    """
    try:
        yield
    except (ServerUnreachableError, ServerBusyError):
        with suppress(TableError):
            staging.drop()
        raise
    except BaseException:
        with suppress(ServerBusyError):
            staging.drop()
        raise
    with suppress(ServerBusyError):
        patiently(staging.drop)


def create_staging(staging: Staging, rows: int) -> None:
    """Makes the table for a shard of `rows` rows. Raises `TableError`."""
    synced = SYNCED + (SYNCED_ON_INSERT if rows <= inserting.PART_ROWS else "")
    policy = storage_policy(staging.db)
    settings = NO_BACKGROUND_MERGES + synced + (f", {policy}" if policy else "")
    staging.db.command(table_definition(staging.db, staging.name) + settings)


def staging_name(held: Lease, shard: int) -> str:
    """The unquoted name of the staging table of a shard under a lease; `scratch.SHARD_STAGING` matches it."""
    return f"{held.db.settings.table}_staging_{shard}_{held.token}"
