"""The privileges that a ClickHouse user needs to load, index and search the table, and no more. It grants nothing."""

from __future__ import annotations

from typing import NamedTuple

from clickhouse_connect.driver.binding import quote_identifier

from laion_assets.settings import Settings
from laion_assets.table.schema import local_table
from laion_assets.table.server import Address

SYSTEM_TABLES = (
    *("databases", "tables", "columns", "parts", "disks", "data_skipping_indices"),
    *("merges", "mutations", "processes", "events", "settings", "server_settings", "functions"),
)
"""The tables of the database `system` that our statements read."""

SOURCES = {"s3": "S3", "gs": "S3", "http": "URL", "https": "URL"}
"""The privilege for the table function that reads from a place, by its URL scheme."""


class Grant(NamedTuple):
    """Privileges, the object that they are on, and what they are for."""

    privileges: str
    on: str
    why: str

    def statement(self, user: str) -> str:
        """The GRANT statement."""
        return f"GRANT {self.privileges} ON {self.on} TO {quote_identifier(user)}"


CLUSTER_GRANTS = (
    Grant("REMOTE", "*.*", "asks every node: cluster() and clusterAllReplicas()"),
    Grant("SELECT", "system.clusters", "looks at the nodes"),
)
"""What a cluster needs in addition."""


def search_grants(settings: Settings) -> list[Grant]:
    """The grants for a user who only searches."""
    database, table = _database_and_table(settings)
    local = quote_identifier(local_table(settings))
    system = ["tables", "columns", "parts", "data_skipping_indices", "events", "databases", "settings"]
    system += ["processes", "functions"]
    return [
        *([] if settings.cluster is None else CLUSTER_GRANTS),
        Grant("SELECT", f"{database}.{table}", "searches"),
        *([Grant("SELECT", f"{database}.{local}", "searches each node's rows")] if local != table else []),
        *(Grant("SELECT", f"{database}.{name}", "searches by cells") for name in _derived(settings)),
        *(Grant("SELECT", f"system.{name}", "looks at the table, and at what a search did") for name in system),
    ]


def _derived(settings: Settings) -> list[str]:
    """The tables of cells, quoted, if LAION_INDEX asks for cells."""
    names = ("image_cells", "text_cells", "centroids", "cells_events") if settings.builds_cells else ()
    return [quote_identifier(f"{local_table(settings)}_{name}") for name in names]


def load_grants(settings: Settings) -> list[Grant]:
    """The grants for the user of LAION_CLICKHOUSE: all commands and assets. Staging tables are in the same database."""
    database, _ = _database_and_table(settings)
    everything = f"{database}.*"
    place = settings.clickhouse_merged or settings.store or ""
    source = SOURCES.get(place.partition("://")[0], "FILE") if "://" in place else "FILE"
    engines = ["MergeTree"] if settings.cluster is None else ["MergeTree", "ReplicatedMergeTree", "Distributed"]
    return [
        Grant("CREATE DATABASE", everything, "makes the database where it is not there"),
        Grant("CREATE TABLE, DROP TABLE", everything, "makes the table; makes and drops staging and scratch tables"),
        *(Grant("TABLE ENGINE", one, "is asked for where table_engines_require_grant is set") for one in engines),
        *([] if settings.cluster is None else (*CLUSTER_GRANTS, Grant("SELECT", "system.one", "asks who answers"))),
        Grant("SELECT, INSERT", everything, "loads, checks and searches"),
        Grant("ALTER DELETE", everything, "swaps and drops partitions"),
        Grant("ALTER UPDATE", everything, "applies the patch parts of your own lightweight UPDATEs and DELETEs"),
        Grant(
            "ALTER ADD INDEX, ALTER DROP INDEX, ALTER MATERIALIZE INDEX",
            everything,
            "declares and builds the vector indexes, and ends a build that fails",
        ),
        Grant("OPTIMIZE", everything, "makes a partition one part"),
        Grant("SYSTEM MERGES", everything, "stops merges of a scratch table while its parts are weighed"),
        Grant("CREATE TEMPORARY TABLE", "*.*", "lets the server read a merged file by a table function"),
        Grant(source, "*.*", "lets the server read a merged file; without it the file is pushed"),
        *(Grant("SELECT", f"system.{name}", "looks at tables, parts and what is under way") for name in SYSTEM_TABLES),
    ]


def user_of(settings: Settings) -> str:
    """The user of LAION_CLICKHOUSE; the embedded engine's is `default`."""
    url = settings.clickhouse_url.get_secret_value()
    return "default" if url.startswith("chdb:") else Address.of(url).user


def _database_and_table(settings: Settings) -> tuple[str, str]:
    url = settings.clickhouse_url.get_secret_value()
    database = "default" if url.startswith("chdb:") else Address.of(url).database
    return quote_identifier(database), quote_identifier(settings.table)
