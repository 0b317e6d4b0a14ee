"""The table of claims on leases: its DDL, and which claims are read. Who holds a lease is lease.py's business."""

from __future__ import annotations

from laion_assets.table.database import Database

INSERT_SETTINGS = {"async_insert": 0}
READ_SETTINGS = {"select_sequential_consistency": 1}
"""With these settings the next statement sees an inserted row, also with a replicated engine."""


def claims_table(db: Database) -> str:
    """The table that this process writes its claims to, quoted."""
    return db.name_of(_name(db))


def every_claim(db: Database) -> str:
    """For FROM: all claims that count, which in a cluster are those on any replica of the cluster shard."""
    return claims_table(db) if db.replicas is None else db.replicas.rows_of(db.database, _name(db))


def read_settings(db: Database) -> dict[str, int]:
    """For a statement that reads `every_claim`: a replica that does not answer, or has no claims yet, is left out."""
    return READ_SETTINGS if db.replicas is None else READ_SETTINGS | {"skip_unavailable_shards": 1}


def has_claims(db: Database) -> bool:
    """Whether anybody ever took a lease there."""
    return bool(
        db.rows(
            "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = {table:String}",
            parameters={"database": db.database, "table": _name(db)},
        )
    )


def claims_definition(db: Database) -> str:
    """The DDL. The table is not replicated, also in a cluster: a replica that lags behind would not see a row."""
    return (
        f"CREATE TABLE IF NOT EXISTS {claims_table(db)} (subject String, number UInt64, token String, mark String, "
        "holder String, renewal UInt32, until DateTime64(3, 'UTC'), written DateTime('UTC') DEFAULT now('UTC')) "
        "ENGINE = MergeTree ORDER BY (subject, number) TTL toDateTime(until) + toIntervalDay(1) "
        "COMMENT 'laion_assets: who may change what; see docs/architecture.md'"
    )


def _name(db: Database) -> str:
    return f"{db.settings.table}_leases"
