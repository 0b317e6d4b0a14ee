"""Leases: one process at a time does one thing to a table, and a dead holder cannot keep it from the others.

A load, an index build and whatever else swaps or rebuilds parts of the table takes the lease of its subject first:

    with lease(db, "partition 3") as held:
        …                  # stage and check, in tables that have `held.token` in their names
        held.require()     # raises LeaseLostError where another process has taken over
        …                  # swap

In the embedded engine the folder's lock keeps other processes out, and a lock of this process its other threads. On a
server claims are rows of the table `<table>_leases`, with times by the server's clock. A claim is inserted first, and
then all that are live are read: of two claims at once each sees the other, or one of them does, so that never both
hold the lease. A live claim is renewed from a thread, and ends by itself `LEASE_SECONDS` after the last renewal.

A holder that is paused for longer (a sleeping laptop, a machine that is moved) does not know that it has lost the
lease. So a process that takes a lapsed lease drops the staging tables with the old token
(`scratch.drop_stale_staging`): a swap that was only delayed then finds nothing to swap in.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from laion_assets.errors import LaionError, LeaseHeldError, LeaseLostError, TableError
from laion_assets.machine import is_gone, process_mark
from laion_assets.table.database import Database
from laion_assets.table.server import close_server, open_server

LEASE_SECONDS = 60.0
"""How long a holder that says nothing more keeps the lease. One of this host whose process is gone loses it at once."""

RENEW_SECONDS = 15.0
"""Between two renewals, and the time limit of a statement about claims: a lease outlasts one statement that fails."""

LOOK_AGAIN_SECONDS = 0.25

RELEASED = 2**32 - 1
"""The renewal that ends a claim."""

CLAIMING_SECONDS = 5.0
"""How long a claim that was made at the same time as ours may take to see ours and to be withdrawn."""

INSERT_SETTINGS = {"async_insert": 0}
READ_SETTINGS = {"select_sequential_consistency": 1}
"""A row that was inserted is seen by the next statement, also where the engine is a replicated one."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """A live claim: its number (the greatest of a subject is the newest), its token, and who made it when."""

    number: int
    token: str
    mark: str
    holder: str


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds. `token` is eight hexadecimal digits that no other lease has."""

    db: Database
    subject: str
    token: str
    number: int = 0

    def require(self) -> None:
        """Raises `LeaseLostError` unless the lease is still ours; call it right before the step that it protects."""
        if self.db.embedded:
            return
        deadline = time.monotonic() + CLAIMING_SECONDS
        while True:
            live = live_claims(self.db, self.subject)
            newer = [claim for claim in live if claim.number >= self.number and claim.token != self.token]
            if all(claim.token != self.token for claim in live) or (newer and time.monotonic() >= deadline):
                raise self._lost(newer)
            if not newer:
                return
            time.sleep(LOOK_AGAIN_SECONDS)

    def _lost(self, newer: list[Claim]) -> LeaseLostError:
        taken = f"it taken over by {newer[-1].holder}" if newer else "it not renewed in time"
        return LeaseLostError(
            f"{self.db.subject}, the lease of {self.subject}",
            found=taken,
            expected=f"a renewal every {RENEW_SECONDS:g} s, at the latest after {LEASE_SECONDS:g} s",
            advice="nothing was swapped in; run it again",
        )


@contextlib.contextmanager
def lease(db: Database, subject: str, *, wait_seconds: float | None = None, say: Say | None = None) -> Iterator[Lease]:
    """Holds the lease of `subject` on the table of `db` while the block runs.

    Where another holds it this waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`), and says once for
    whom. Raises `LeaseHeldError`, which names the holder, and `TableError`.
    """
    wait = db.settings.clickhouse_wait_seconds if wait_seconds is None else wait_seconds
    with _lease_of_this_process(db, subject, wait) if db.embedded else _lease_on_server(db, subject, wait, say) as held:
        yield held


def live_tokens(db: Database) -> set[str]:
    """The tokens of all leases on the table that are held now: a staging table of another token is abandoned."""
    if db.embedded:
        with _registry:
            return set(_held_here.values())
    return {claim.token for claim in live_claims(db)} if _has_leases(db) else set()


def live_claims(db: Database, subject: str | None = None) -> list[Claim]:
    """The claims on a server that are neither released nor lapsed, oldest first; of all subjects where none is named.

    Not live are claims of processes of this host that are gone, and those of this process that it has given up, but
    could not release for want of a connection.
    """
    rows = _hurried(db).rows(
        f"SELECT number, token, mark, concat(any(holder), ' since ', toString(min(written)), ' UTC') "
        f"FROM {_leases(db)} WHERE subject = {{subject:String}} OR empty({{subject:String}}) "
        "GROUP BY subject, number, token, mark HAVING argMax(until, renewal) > now64(3) ORDER BY number, token",
        parameters={"subject": subject or ""},
        settings=READ_SETTINGS,
    )
    claims = [Claim(int(number), str(token), str(mark), str(holder)) for number, token, mark, holder in rows]
    ours = process_mark()
    return [
        claim for claim in claims if (claim.token in _claimed_here if claim.mark == ours else not is_gone(claim.mark))
    ]


_claimed_here: set[str] = set()
"""Tokens of the claims that this process makes or holds on servers."""

_registry = threading.Condition()
_held_here: dict[tuple[str, str, str], str] = {}
"""Tokens of the leases on embedded engines that this process holds, by engine, table and subject."""


@contextlib.contextmanager
def _lease_of_this_process(db: Database, subject: str, wait_seconds: float) -> Iterator[Lease]:
    key = (db.settings.clickhouse_url.get_secret_value(), db.table, subject)
    held = Lease(db, subject, secrets.token_hex(4))
    with _registry:
        if not _registry.wait_for(lambda: key not in _held_here, wait_seconds):
            raise _held_by(db, subject, f"another thread of process {os.getpid()}", wait_seconds)
        _held_here[key] = held.token
    try:
        yield held
    finally:
        with _registry:
            del _held_here[key]
            _registry.notify_all()


@contextlib.contextmanager
def _lease_on_server(db: Database, subject: str, wait_seconds: float, say: Say | None) -> Iterator[Lease]:
    db.command(_leases_definition(db))
    with _acquired(db, subject, wait_seconds, say) as held:
        ended = threading.Event()
        renewing = threading.Thread(target=_renew_until, args=(held, ended), name=f"lease of {subject}", daemon=True)
        renewing.start()
        try:
            yield held
        finally:
            ended.set()
            # A renewal may wait for a server that does not answer. One that arrives after the release changes nothing.
            renewing.join(CLAIMING_SECONDS)


@contextlib.contextmanager
def _acquired(db: Database, subject: str, wait_seconds: float, say: Say | None) -> Iterator[Lease]:
    deadline = time.monotonic() + wait_seconds
    while True:
        live = live_claims(db, subject)
        if not live:
            with _claim(db, subject) as held:
                if all(claim.token == held.token for claim in live_claims(db, subject)):
                    yield held
                    return
            # Not both after the same time, or they would meet again.
            time.sleep(random.uniform(0, 2 * LOOK_AGAIN_SECONDS))
            continue
        if time.monotonic() >= deadline:
            raise _held_by(db, subject, live[-1].holder, wait_seconds)
        if say is not None:
            say(f"{subject} is held by {live[-1].holder}; waiting up to {wait_seconds:g} s")
            say = None
        time.sleep(LOOK_AGAIN_SECONDS)


@contextlib.contextmanager
def _claim(db: Database, subject: str) -> Iterator[Lease]:
    """Inserts a claim, whose number is greater than that of any before it, and releases it at the end of the block."""
    names = {"subject": subject, "token": secrets.token_hex(4), "mark": process_mark()}
    names["holder"] = f"process {os.getpid()} on {socket.gethostname()}"
    _claimed_here.add(names["token"])
    quick = _hurried(db)
    try:
        quick.command(
            f"INSERT INTO {_leases(db)} (subject, number, token, mark, holder, renewal, until) "
            "SELECT {subject:String}, max(number) + 1, {token:String}, {mark:String}, {holder:String}, 0, "
            f"now64(3) + toIntervalSecond({LEASE_SECONDS:.0f}) FROM {_leases(db)} WHERE subject = {{subject:String}}",
            parameters=names,
            settings=INSERT_SETTINGS | READ_SETTINGS,
        )
        (number,) = quick.one(
            f"SELECT any(number) FROM {_leases(db)} WHERE token = {{token:String}}",
            parameters=names,
            settings=READ_SETTINGS,
        )
        yield Lease(db, subject, names["token"], int(number))
    finally:
        _claimed_here.discard(names["token"])
        # Where the server is gone the claim lapses by itself.
        with contextlib.suppress(TableError):
            _write(quick, names["token"], str(RELEASED), "now64(3)")


def _renew_until(held: Lease, ended: threading.Event) -> None:
    """Renews a claim while it is live; one that has lapsed stays so, since another may have been made.

    A client has one time limit, which each statement of the holder sets to that of a load: renewals have a client of
    their own, which is opened for the first of them. After a failure the next follows at once.
    """
    wait, own = RENEW_SECONDS, None
    with contextlib.ExitStack() as closing:
        while not ended.wait(wait):
            wait = LOOK_AGAIN_SECONDS
            with contextlib.suppress(LaionError):
                own = own or _own_connection(closing, held.db)
                _write(own, held.token, "renewal + 1", f"now64(3) + toIntervalSecond({LEASE_SECONDS:.0f})")
                wait = RENEW_SECONDS


def _own_connection(closing: contextlib.ExitStack, db: Database) -> Database:
    """Another connection to the same server, for short statements, until `closing` ends."""
    hurried = _hurried(db)
    client = open_server(hurried.settings)
    closing.callback(close_server, client)
    client.database = db.database
    client.set_client_setting("log_comment", db.client.get_client_setting("log_comment") or "")
    return replace(hurried, client=client, kept={})


def _hurried(db: Database) -> Database:
    """The same connection, for statements that a load must not wait for as long as for its own."""
    settings = db.settings.model_copy(update={"clickhouse_search_seconds": RENEW_SECONDS})
    return replace(db, settings=settings, seconds=RENEW_SECONDS)


def _write(db: Database, token: str, renewal: str, until: str) -> None:
    """One more row of a claim that is live."""
    db.command(
        f"INSERT INTO {_leases(db)} (subject, number, token, mark, holder, renewal, until) "
        f"SELECT subject, number, token, mark, holder, {renewal}, {until} FROM "
        f"(SELECT * FROM {_leases(db)} WHERE token = {{token:String}} ORDER BY renewal DESC LIMIT 1) AS last "
        "WHERE last.until > now64(3)",
        parameters={"token": token},
        settings=INSERT_SETTINGS | READ_SETTINGS,
    )


def _held_by(db: Database, subject: str, holder: str, wait_seconds: float) -> LeaseHeldError:
    return LeaseHeldError(
        f"{db.subject}, the lease of {subject}",
        found=f"it held by {holder}",
        expected=f"it to be free within {wait_seconds:g} s",
        advice="wait for that process to end; a lease that is not renewed any more ends by itself",
    )


def _leases(db: Database) -> str:
    return db.name_of(f"{db.settings.table}_leases")


def _has_leases(db: Database) -> bool:
    return bool(
        db.rows(
            "SELECT 1 FROM system.tables WHERE database = {database:String} AND name = {table:String}",
            parameters={"database": db.database, "table": f"{db.settings.table}_leases"},
        )
    )


def _leases_definition(db: Database) -> str:
    """Not replicated, also in a cluster: a row that a replica does not have yet would not be seen."""
    return (
        f"CREATE TABLE IF NOT EXISTS {_leases(db)} (subject String, number UInt64, token String, mark String, "
        "holder String, renewal UInt32, until DateTime64(3, 'UTC'), written DateTime('UTC') DEFAULT now('UTC')) "
        "ENGINE = MergeTree ORDER BY (subject, number) TTL toDateTime(until) + toIntervalDay(1) "
        "COMMENT 'laion_assets: who may change what; see docs/architecture.md'"
    )
