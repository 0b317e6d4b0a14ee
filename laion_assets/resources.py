"""The table and the store as Dagster resources, for assets of one's own that read what ours have loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from laion_assets.health.keys import job_name
from laion_assets.settings import Settings
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import Database, connect

TABLE = "embedding_table"
STORE = "shard_store"


@dataclass(frozen=True)
class EmbeddingTable:
    """The ClickHouse table of one dataset. An asset takes it as `dg.ResourceParam[EmbeddingTable]`.

    It is no `ConfigurableResource`: Dagster shows the values of such a one, and a server's URL has a password in it.
    """

    settings: Settings

    @contextmanager
    def connect(self) -> Iterator[Database]:
        """A connection: `db.table` is the quoted name, `db.rows(sql)` the rows of a query. Raises `TableError`.

        The embedded engine belongs to one process at a time: an asset that connects to it belongs to the Dagster pool
        `clickhouse`, and reads within the block.
        """
        with connect(self.settings) as db:
            yield db


def build_resources(settings: Settings) -> dict[str, object]:
    """`embedding_table` and `shard_store`; LAION_KEY_PREFIX stands before the names, as before those of jobs."""
    return {
        job_name(settings, TABLE): EmbeddingTable(settings),
        job_name(settings, STORE): ShardStore.of(settings),
    }
