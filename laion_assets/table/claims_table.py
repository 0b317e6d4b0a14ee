"""The table of claims on leases: its DDL, and which claims are read. Who holds a lease is lease.py's business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from laion_assets.errors import TableError
from laion_assets.table.database import Database

INSERT_SETTINGS = {"async_insert": 0}
READ_SETTINGS = {"select_sequential_consistency": 1}
"""With these settings the next statement sees an inserted row, also with a replicated engine."""

CLOCK_SECONDS = 5.0
"""How far the clocks of a cluster's replicas may differ. If one is a minute behind, its claims look as if they had
lapsed."""


@dataclass(frozen=True)
class Claim:
    """A live claim: its number (a subject's newest claim has the greatest), its token, who made it, and when.

    `left` is the time until it ends without renewal, in seconds, by the clock of the server that was asked.
    """

    number: int
    token: str
    mark: str
    holder: str
    left: float = 0.0


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


def refuse_other_clocks(subject: str, live: Sequence[Claim], longest: float) -> None:
    """Raises `TableError` for a claim that lasts longer than `longest` seconds by the clock of the asked server."""
    for claim in live:
        if claim.left > longest + CLOCK_SECONDS:
            raise TableError(
                subject,
                found=f"a claim of {claim.holder} that lasts {claim.left:.0f} s more",
                expected=f"at most {longest:g} s, by clocks that differ by {CLOCK_SECONDS:g} s at most",
                advice="synchronise the clocks of the servers; a lease can be held twice if they differ by a minute",
            )


def _name(db: Database) -> str:
    return f"{db.settings.table}_leases"
