"""Mutations of the table: started, followed to their end, killed when they fail. Callers decide what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from laion_assets.errors import ServerBusyError, ServerUnreachableError, TableError
from laion_assets.stop_flag import check_stopped
from laion_assets.table.database import Database
from laion_assets.table.patience import patiently

POLL_SECONDS = 0.25
"""A failed mutation is noticed after this time. Asking costs the engine less than a millisecond."""

STALL_SECONDS = 900.0
"""A mutation without progress for this time is given up. The graph of a million rows is written to disk within seconds
after its last row was read, so only an engine that does not work at all shows no progress for so long."""

RECONNECT_SECONDS = 2.0

SHOWN_SECONDS = 60.0
"""How long a replica may take to show a mutation that Keeper has. A table without replicas shows it at once."""

RowsRead = Callable[[int], None]
"""Called with the number of rows that the mutation has read so far in its present partition."""


@dataclass(frozen=True)
class MutationState:
    """A mutation's progress: parts left to do, rows read of the present part, and the failure, if there is one."""

    parts_to_do: int
    rows_read: int
    failed_part: str
    failure: str
    postponed: str


@dataclass(frozen=True)
class Mutation:
    """One mutation of our table, finished or not, by ClickHouse's own id; `commands` is what it does."""

    id: str
    commands: str = ""

    def state(self, db: Database) -> MutationState | None:
        """Its progress; None if it is done, or was killed."""
        # Each command of one ALTER has its own row, with the same id and the same parts.
        rows = db.rows(
            "SELECT max(parts_to_do), max(latest_failed_part), max(latest_fail_reason), "
            "any(toString(parts_postpone_reasons)) FROM system.mutations WHERE database = {database:String} "
            "AND table = {table:String} AND mutation_id = {id:String} AND NOT is_done GROUP BY mutation_id",
            parameters=self._table_parameters(db),
        )
        if not rows:
            return None
        (read,) = db.one(
            "SELECT sum(rows_read) FROM system.merges "
            "WHERE database = {database:String} AND table = {table:String} AND is_mutation",
            parameters=self._table_parameters(db),
        )
        parts, failed_part, failure, postponed = rows[0]
        failure = str(failure).partition(" (version ")[0][:400]
        return MutationState(int(parts), int(read), str(failed_part), failure, str(postponed))

    def follow(
        self, db: Database, subject: str, *, rows_read: RowsRead | None = None, stall_seconds: float = STALL_SECONDS
    ) -> None:
        """Waits for its end; `subject` says in errors what the mutation is for.

        Raises `TableError` if it failed or shows no progress for `stall_seconds`. A failed mutation is killed, since
        ClickHouse would try it again for ever and it would block the next one. A stalled one is left, since a server
        may only be busy. A server that does not answer, or refuses to, is asked again for the same time.

        An interrupt ends the mutation, too. Parts that it has finished keep its changes.
        """
        try:
            self._follow(db, subject, rows_read, stall_seconds)
        except BaseException as error:
            if not isinstance(error, Exception):
                self._stop(db)
            raise

    def wait(self, db: Database, subject: str, *, stall_seconds: float = STALL_SECONDS) -> None:
        """Waits for its end, or for its failure, but never ends it. Raises `TableError` as `follow` does."""
        self._follow(db, subject, None, stall_seconds, ours=False)

    def _follow(
        self, db: Database, subject: str, rows_read: RowsRead | None, stall_seconds: float, *, ours: bool = True
    ) -> None:
        seen: tuple[int, int] | None = None
        since = time.monotonic()
        while True:
            check_stopped()
            try:
                state = self.state(db)
            except (ServerUnreachableError, ServerBusyError):
                if time.monotonic() - since >= stall_seconds:
                    raise
                time.sleep(RECONNECT_SECONDS)
                continue
            if state is None:
                return
            if state.failure:
                if ours:
                    self.kill(db)
                raise TableError(
                    subject,
                    found=f"in part {state.failed_part}: {state.failure}",
                    advice=f"mutation {self.id} is gone" if ours else f"see system.mutations for {self.id}",
                )
            if (state.parts_to_do, state.rows_read) != seen:
                seen, since = (state.parts_to_do, state.rows_read), time.monotonic()
                if rows_read is not None:
                    rows_read(state.rows_read)
            elif time.monotonic() - since >= stall_seconds:
                raise TableError(
                    subject,
                    found=f"no progress for {stall_seconds:g} s, {state.parts_to_do} parts to do {state.postponed}",
                    expected="progress",
                    advice=f"see system.mutations for {self.id}; KILL MUTATION ends it",
                )
            time.sleep(POLL_SECONDS)

    def _stop(self, db: Database) -> None:
        """Ends it in the middle of a part.

        A killed mutation continues to the end of its part: 15 s and more for a graph of 60,000 rows. If merges are
        stopped, it ends within 3 s. On a server that would stop other users' merges, too.
        """
        with suppress(TableError):
            if db.embedded:
                db.command(f"SYSTEM STOP MERGES {db.table}")
            self.kill(db)

    def kill(self, db: Database) -> None:
        """Ends it for ever. Parts that it has finished keep its changes."""
        db.rows(
            "KILL MUTATION WHERE database = {database:String} AND table = {table:String} AND mutation_id = {id:String}",
            parameters=self._table_parameters(db),
        )

    def _table_parameters(self, db: Database) -> dict[str, str]:
        return {"database": db.database, "table": db.settings.table, "id": self.id}


def start_mutation(db: Database, commands: list[str]) -> Mutation:
    """Starts one ALTER of the table with these commands and does not wait for it. It may be done when this returns.

    Its id is that of the newest mutation with such a command that did not exist before. A replicated table shows a
    mutation only once its replica has got it from Keeper, so this waits for it. Raises `TableError` if it never
    appears.
    """
    ever = patiently(lambda: _mutations(db, commands, only_unfinished=False))
    earlier = {mutation.id for mutation in ever}
    db.command(f"ALTER TABLE {db.table} {', '.join(commands)}", settings={"mutations_sync": 0, "alter_sync": 0})
    until = time.monotonic() + SHOWN_SECONDS
    while True:
        shown = patiently(lambda: _mutations(db, commands, only_unfinished=False))
        started = [one for one in shown if one.id not in earlier]
        if started:
            return started[-1]
        if time.monotonic() >= until:
            raise TableError(
                db.subject,
                found=f"no mutation in system.mutations {SHOWN_SECONDS:g} s after {', '.join(commands)}",
                expected="the one that was started",
                advice="check whether the replica is read-only or behind (system.replicas), then start again",
            )
        time.sleep(POLL_SECONDS)


def unfinished_mutations(db: Database) -> list[Mutation]:
    """Every unfinished mutation of the table, oldest first: those that a killed process left, and other people's.

    Only our own mutations may be followed or killed. Their commands tell whose they are.
    """
    return patiently(lambda: _mutations(db, []))


def _mutations(db: Database, commands: list[str], *, only_unfinished: bool = True) -> list[Mutation]:
    rows = db.rows(
        "SELECT mutation_id, arrayStringConcat(groupArray(command), ', ') FROM system.mutations "
        "WHERE database = {database:String} AND table = {table:String} "
        f"AND ({int(not only_unfinished)} OR NOT is_done) "
        "AND (empty({commands:Array(String)}) OR has({commands:Array(String)}, trim(BOTH '()' FROM command))) "
        "GROUP BY mutation_id ORDER BY min(create_time), toUInt64OrZero(extract(mutation_id, '\\\\d+'))",
        parameters={"database": db.database, "table": db.settings.table, "commands": commands},
    )
    return [Mutation(str(mutation_id), str(command)) for mutation_id, command in rows]
