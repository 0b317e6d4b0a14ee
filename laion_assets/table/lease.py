"""Leases: only one process at a time does one kind of work on a table, and a dead holder does not block the others.

A load, an index build and all else that swaps or rebuilds parts of the table takes the lease of its subject first:

    with lease(db, "partition 3") as held:
        …                  # stage and check, in tables that have `held.token` in their names
        held.require()     # raises LeaseLostError where another process has taken over …                  # swap

In the embedded engine the folder's lock keeps other processes out, and a lock of this process its other threads. On a
server claims are rows of the table `<table>_leases`, with times by the server's clock. A claim is inserted first, then
all live claims are read. Of two claims at the same time at least one sees the other, so the two never both hold the
lease. On a cluster the claims on all replicas of the cluster shard are read, since another holder may use another
replica. A thread renews a live claim. Without renewal it ends `LEASE_SECONDS` after the last one.

A holder that is paused for longer (a sleeping laptop, a machine that is moved) does not know that it has lost the
lease. So a process that takes an expired lease drops the staging tables with the old token
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
from laion_assets.table.claims_table import (
    INSERT_SETTINGS,
    READ_SETTINGS,
    Claim,
    claims_definition,
    claims_table,
    every_claim,
    has_claims,
    read_settings,
    refuse_other_clocks,
)
from laion_assets.table.database import Database
from laion_assets.table.patience import patiently
from laion_assets.table.server import close_server, open_server

LEASE_SECONDS = 60.0
"""How long a holder without renewal keeps the lease. If its process on this host is gone, the lease ends at once."""

RENEW_SECONDS = 15.0
"""Between two renewals, and the time limit of a statement about claims: a lease outlasts one statement that fails."""

LOOK_AGAIN_SECONDS = 0.25

RELEASED = 2**32 - 1
"""The renewal number that ends a claim."""

CLAIMING_SECONDS = 5.0
"""How long a claim that was made at the same time as ours may take to see our claim and to withdraw."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds. `token` is eight hexadecimal digits that no other lease has."""

    db: Database
    subject: str
    token: str
    number: int = 0

    def require(self) -> None:
        """Raises `LeaseLostError` unless the lease is still ours. Call it right before the step that it protects."""
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
        taken = f"the lease taken over by {newer[-1].holder}" if newer else "the lease not renewed in time"
        return LeaseLostError(
            f"{self.db.subject}, the lease of {self.subject}",
            found=taken,
            expected=f"a renewal every {RENEW_SECONDS:g} s, at the latest after {LEASE_SECONDS:g} s",
            advice="no partition was replaced; run it again",
        )


@contextlib.contextmanager
def lease(db: Database, subject: str, *, wait_seconds: float | None = None, say: Say | None = None) -> Iterator[Lease]:
    """Holds the lease of `subject` on the table of `db` while the block runs.

    If another process holds it, this waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`), and reports
    the holder once. Raises `LeaseHeldError`, which names the holder, and `TableError`.
    """
    wait = db.settings.clickhouse_wait_seconds if wait_seconds is None else wait_seconds
    with _lease_of_this_process(db, subject, wait) if db.embedded else _lease_on_server(db, subject, wait, say) as held:
        yield held


def live_tokens(db: Database) -> set[str]:
    """The tokens of all present leases on the table. A staging table with another token is abandoned."""
    if db.embedded:
        with _registry:
            return set(_held_here.values())
    return {claim.token for claim in live_claims(db)} if has_claims(db) else set()


def live_claims(db: Database, subject: str | None = None) -> list[Claim]:
    """The claims on a server that are neither released nor expired, oldest first; of all subjects if none is named.

    Left out are claims of processes of this host that are gone, and claims that this process has given up, but could
    not release because it had no connection. A busy server is asked again.
    """
    sql = (
        "SELECT number, token, mark, concat(any(holder), ' since ', toString(min(written)), ' UTC'), "
        f"toFloat64(argMax(until, renewal)) - toFloat64(now64(3)) FROM {every_claim(db)} "
        "WHERE subject = {subject:String} OR empty({subject:String}) "
        "GROUP BY subject, number, token, mark HAVING argMax(until, renewal) > now64(3) ORDER BY number, token"
    )
    names = {"subject": subject or ""}
    rows = patiently(lambda: _hurried(db).rows(sql, parameters=names, settings=read_settings(db)))
    claims = [
        Claim(int(number), str(token), str(mark), str(holder), float(left))
        for number, token, mark, holder, left in rows
    ]
    ours = process_mark()
    return [
        claim for claim in claims if (claim.token in _claimed_here if claim.mark == ours else not is_gone(claim.mark))
    ]


_claimed_here: set[str] = set()
"""Tokens of the claims that this process is making or holds on servers."""

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
    db.command(claims_definition(db))
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
        refuse_other_clocks(f"{db.subject}, the lease of {subject}", live, LEASE_SECONDS)
        if not live:
            with _claim(db, subject) as held:
                if all(claim.token == held.token for claim in live_claims(db, subject)):
                    yield held
                    return
            # Different waits, so that the two do not meet again.
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
    """Inserts a claim with a number greater than that of all earlier ones, and releases it at the end of the block."""
    names = {"subject": subject, "token": secrets.token_hex(4), "mark": process_mark()}
    names["holder"] = f"process {os.getpid()} on {socket.gethostname()}"
    _claimed_here.add(names["token"])
    quick = _hurried(db)
    try:
        quick.command(
            f"INSERT INTO {claims_table(db)} (subject, number, token, mark, holder, renewal, until) "
            "SELECT {subject:String}, max(number) + 1, {token:String}, {mark:String}, {holder:String}, 0, "
            f"now64(3) + toIntervalSecond({LEASE_SECONDS:.0f}) FROM {every_claim(db)} "
            "WHERE subject = {subject:String}",
            parameters=names,
            settings=INSERT_SETTINGS | read_settings(db),
        )
        (number,) = quick.one(
            f"SELECT any(number) FROM {claims_table(db)} WHERE token = {{token:String}}",
            parameters=names,
            settings=READ_SETTINGS,
        )
        yield Lease(db, subject, names["token"], int(number))
    finally:
        _claimed_here.discard(names["token"])
        # If the server is gone, the claim expires without this.
        with contextlib.suppress(TableError):
            _write(quick, names["token"], str(RELEASED), "now64(3)")


def _renew_until(held: Lease, ended: threading.Event) -> None:
    """Renews a claim while it is live. An expired claim is not renewed, since another may have been made.

    A client has one time limit, and the holder's statements set it to that of a load. So renewals have their own
    client, which is opened for the first renewal. After a failure the next renewal follows at once.
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
    """The same connection with a short time limit, for statements that a load must not wait long for."""
    settings = db.settings.model_copy(update={"clickhouse_search_seconds": RENEW_SECONDS})
    return replace(db, settings=settings, seconds=RENEW_SECONDS)


def _write(db: Database, token: str, renewal: str, until: str) -> None:
    """Writes one more row for a live claim."""
    db.command(
        f"INSERT INTO {claims_table(db)} (subject, number, token, mark, holder, renewal, until) "
        f"SELECT subject, number, token, mark, holder, {renewal}, {until} FROM "
        f"(SELECT * FROM {claims_table(db)} WHERE token = {{token:String}} ORDER BY renewal DESC LIMIT 1) AS last "
        "WHERE last.until > now64(3)",
        parameters={"token": token},
        settings=INSERT_SETTINGS | READ_SETTINGS,
    )


def _held_by(db: Database, subject: str, holder: str, wait_seconds: float) -> LeaseHeldError:
    return LeaseHeldError(
        f"{db.subject}, the lease of {subject}",
        found=f"the lease held by {holder}",
        expected=f"the lease to be free within {wait_seconds:g} s",
        advice="wait for that process to end; a lease that is no longer renewed ends automatically",
    )
