"""Tests of leases: one thread, process or host holds a lease at a time, and loses it when it dies or is silent."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from laion_assets.errors import LeaseHeldError, LeaseLostError, TableError
from laion_assets.settings import Settings
from laion_assets.table import lease as lease_module
from laion_assets.table import server as server_module
from laion_assets.table.connect import connect
from laion_assets.table.database import Database, Replicas
from laion_assets.table.lease import LEASE_SECONDS, lease, live_claims, live_tokens
from laion_assets_tests.conftest import Transport, assert_one_line, settings_for
from laion_assets_tests.endpoint.process import ServerProcess

HOLDER = """
import sys, time
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets.table.lease import lease
with connect(load_settings(dataset_name="sample", clickhouse=sys.argv[1])) as db, lease(db, "partition 3"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def settings(sample_folder: Path, tmp_path: Path, transport: Transport) -> Settings:
    """Settings for a database that only this test uses."""
    return settings_for(tmp_path / "data", sample_folder, **transport.fresh())


@pytest.fixture
def db(settings: Settings) -> Iterator[Database]:
    with connect(settings) as opened:
        yield opened


@pytest.fixture
def server(sample_folder: Path, tmp_path: Path, clickhouse_server: ServerProcess) -> Iterator[Database]:
    """A connection to a server's database, as several hosts would use it."""
    clickhouse_server.calm()
    with connect(settings_for(tmp_path / "data", sample_folder, clickhouse=clickhouse_server.url())) as opened:
        yield opened


@contextlib.contextmanager
def holding_process(db: Database) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease of partition 3."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), db.settings.clickhouse_url.get_secret_value()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def make_stranger(db: Database, token: str) -> None:
    """Makes a claim look as if a process of another host had made it."""
    table = db.name_of("laion_leases")
    db.command(
        f"ALTER TABLE {table} UPDATE mark = 'ffffffff_1' WHERE token = '{token}'", settings={"mutations_sync": 2}
    )


def let_lapse(db: Database, token: str) -> None:
    """Makes a claim look as if it had not been renewed for longer than a lease lasts."""
    table, change = db.name_of("laion_leases"), f"UPDATE until = until - toIntervalSecond({LEASE_SECONDS + 5:.0f})"
    db.command(f"ALTER TABLE {table} {change} WHERE token = '{token}'", settings={"mutations_sync": 2})


def test_a_claim_by_the_clock_of_a_server_that_is_ahead_is_refused_with_the_reason(server: Database) -> None:
    table = server.name_of("laion_leases")
    with lease(server, "partition 3") as held:
        change = "UPDATE until = until + toIntervalSecond(90), mark = 'ffffffff_1'"
        server.command(f"ALTER TABLE {table} {change} WHERE token = '{held.token}'", settings={"mutations_sync": 2})
        with pytest.raises(TableError) as caught, lease(server, "partition 3", wait_seconds=30):
            pass
        assert not isinstance(caught.value, LeaseHeldError)
        assert_one_line(caught.value, "s more", "at most 60 s", "synchronise the clocks of the servers")


def test_a_second_thread_waits_and_then_says_who_holds_it(db: Database, settings: Settings) -> None:
    with lease(db, "partition 3") as held:
        held.require()
        assert live_tokens(db) == {held.token}
        with (
            connect(settings) as other,
            pytest.raises(LeaseHeldError) as caught,
            lease(other, "partition 3", wait_seconds=0.3),
        ):
            pass
        assert_one_line(caught.value, "the lease of partition 3", "held by", "process", "within 0.3 s")
        with connect(settings) as other, lease(other, "partition 4"):
            pass
    assert live_tokens(db) == set()


def test_the_lease_of_a_holder_that_ends_is_taken_by_who_waits(db: Database, settings: Settings) -> None:
    said: list[str] = []
    taken = threading.Event()

    def wait() -> None:
        with connect(settings) as other, lease(other, "partition 3", wait_seconds=30, say=said.append):
            taken.set()

    waiting = threading.Thread(target=wait)
    with lease(db, "partition 3"):
        waiting.start()
        assert not taken.wait(0.6)
    assert taken.wait(30)
    waiting.join()
    assert len(said) == (0 if db.embedded else 1)


def test_of_many_threads_one_holds_it_at_a_time(db: Database, settings: Settings) -> None:
    inside, most, rounds = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, rounds
        with connect(settings) as own:
            for _ in range(3):
                with lease(own, "partition 3", wait_seconds=60):
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.01)
                    inside -= 1
                    rounds += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, rounds) == (1, 12)


def test_a_process_that_was_killed_keeps_no_lease(server: Database) -> None:
    with holding_process(server) as process:
        with pytest.raises(LeaseHeldError) as caught, lease(server, "partition 3", wait_seconds=0):
            pass
        assert_one_line(caught.value, f"held by process {process.pid} on ")
        process.kill()
        process.wait()
        with lease(server, "partition 3", wait_seconds=0) as held:
            held.require()


def test_a_stranger_that_says_nothing_any_more_loses_its_lease_and_cannot_renew_it(server: Database) -> None:
    with lease(server, "partition 3") as silent:
        make_stranger(server, silent.token)
        with pytest.raises(LeaseHeldError), lease(server, "partition 3", wait_seconds=0):
            pass
        let_lapse(server, silent.token)
        with pytest.raises(LeaseLostError, match="not renewed in time"):
            silent.require()
        with lease(server, "partition 3", wait_seconds=0) as held:
            assert held.number == silent.number + 1
            lease_module._write(server, silent.token, "renewal + 1", "now64(3) + toIntervalSecond(60)")
            assert [claim.token for claim in live_claims(server)] == [held.token]
            held.require()
            with pytest.raises(LeaseLostError):
                silent.require()


def test_a_holder_that_lives_renews_its_lease(server: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.3)
    with lease(server, "partition 3") as held:
        time.sleep(3.5)
        held.require()
        assert [claim.token for claim in live_claims(server)] == [held.token]


def test_leaving_a_lease_waits_for_no_server_that_does_not_answer(
    server: Database, clickhouse_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load's statements may take an hour, but a renewal or a release may not."""
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease_module, "CLAIMING_SECONDS", 0.5)
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", 1.0)
    with lease(server.for_long_statements(), "partition 3") as held:
        clickhouse_server.fails("slow", r"renewal \+ 1", 30)
        clickhouse_server.fails("slow", str(lease_module.RELEASED), 30)
        time.sleep(0.8)
        assert server.for_long_statements().one("SELECT 1 WHERE NOT sleep(3)") == (1,)
        held.require()
        left = time.monotonic()
    assert time.monotonic() - left < 10
    with lease(server, "partition 3", wait_seconds=0):
        pass


class BothReplicas(Replicas):
    """Two databases of one server in place of two replicas: two servers that query each other could not be run here."""

    def rows_of(self, database: str, table: str) -> str:
        return f"merge(REGEXP('^({database}|{self.cluster})$'), '^{table}$')"


def test_the_claims_on_another_replica_count(
    clickhouse_server: ServerProcess, sample_folder: Path, tmp_path: Path
) -> None:
    """Two loaders connect to different replicas of one cluster shard."""
    clickhouse_server.calm()
    urls = [clickhouse_server.url() for _ in range(2)]
    both = BothReplicas("|".join(url.rpartition("/")[2] for url in urls), (1, 2))
    with contextlib.ExitStack() as stack:
        first, second = (
            replace(stack.enter_context(connect(settings_for(tmp_path, sample_folder, clickhouse=url))), replicas=both)
            for url in urls
        )
        with lease(first, "partition 3", wait_seconds=0) as held:
            with pytest.raises(LeaseHeldError), lease(second, "partition 3", wait_seconds=0):
                pass
            with lease(second, "partition 4", wait_seconds=0):
                pass
            let_lapse(first, held.token)
            with lease(second, "partition 3", wait_seconds=0) as taken:
                assert taken.number > held.number
                taken.require()
                with pytest.raises(LeaseLostError, match="taken over by process"):
                    held.require()


def test_a_renewal_that_comes_after_the_lease_was_taken_does_not_win(server: Database) -> None:
    with lease(server, "partition 3") as slow:
        let_lapse(server, slow.token)
        with lease(server, "partition 3", wait_seconds=0) as held:
            table = server.name_of("laion_leases")
            server.command(
                f"INSERT INTO {table} (subject, number, token, mark, holder, renewal, until) SELECT subject, number, "
                f"token, mark, holder, 9, now64(3) + toIntervalSecond(60) FROM {table} WHERE token = '{slow.token}'"
            )
            assert {claim.token for claim in live_claims(server)} == {held.token, slow.token}
            held.require()
            with pytest.raises(LeaseLostError, match="taken over by process"):
                slow.require()


def test_a_claim_whose_release_was_lost_is_not_held_by_this_process(
    server: Database, clickhouse_server: ServerProcess
) -> None:
    with lease(server, "partition 3"):
        clickhouse_server.fails("status", "INSERT INTO .*_leases", 503)
    assert server.one(f"SELECT count() FROM {server.name_of('laion_leases')}") == (1,)
    with lease(server, "partition 3", wait_seconds=0) as held:
        held.require()
