"""Tests of server faults: one clear error without the password, a correct table, and a second try that succeeds."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from laion_assets.errors import ServerBusyError, ServerRefusedError, ServerUnreachableError, SettingsError, TableError
from laion_assets.index.cover import index_cover
from laion_assets.index.graphs import build_indexes
from laion_assets.index.replaced import declare_indexes
from laion_assets.settings import Settings, load_settings
from laion_assets.shard import merge as merge_module
from laion_assets.shard.merged import MergedShard
from laion_assets.table import inserting, patience
from laion_assets.table import mutations as mutations_module
from laion_assets.table import server as server_module
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.mutations import start_mutation, unfinished_mutations
from laion_assets.table.schema import create_table, partitions, table_exists
from laion_assets.table.verify import vectors_agree
from laion_assets_tests.conftest import Shard, assert_one_line
from laion_assets_tests.endpoint.process import PASSWORD, ServerProcess, endpoint_process

Merge = Callable[[Shard, int], MergedShard]


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes each load send several parallel streams and merge their parts."""
    monkeypatch.setattr(merge_module, "BLOCK_ROWS", 50)
    monkeypatch.setattr(inserting, "PART_ROWS", 100)


@pytest.fixture
def db(settings: Settings, clickhouse_server: ServerProcess) -> Iterator[Database]:
    """A connection to a database on the server, without faults."""
    clickhouse_server.calm()
    with connect(at(settings, clickhouse_server.url(), hnsw_m=8, hnsw_ef_construction=32)) as opened:
        yield opened
    clickhouse_server.calm()


@pytest.fixture
def merged(merged_from: Merge, sample_shards: list[Shard]) -> MergedShard:
    """A merged file of 250 rows in the store."""
    return merged_from(sample_shards[2], 0)


def at(settings: Settings, url: str, **fields: object) -> Settings:
    """Returns the settings with the URL of a server."""
    return settings.model_copy(update={"clickhouse": load_settings(clickhouse=url).clickhouse, **fields})


def assert_right(db: Database, merged: MergedShard) -> None:
    """Checks that the partition is there once, is one part and has the file's vectors."""
    assert [(state.shard, state.rows, state.parts) for state in partitions(db)] == [(0, merged.rows, 1)]
    assert vectors_agree(db, merged) == merged.rows


@pytest.mark.parametrize(
    ("kind", "match", "amount", "said"),
    [
        ("cut", "INSERT INTO .*_staging_", 100_000, "cut"),
        ("lost", "INSERT INTO .*_staging_", 0, "cut"),
        ("status", "INSERT INTO .*_staging_", 503, "503"),
        ("lost", "INSERT INTO .*_leases", 0, "cut"),
        ("lost", "CREATE TABLE", 0, "cut"),
        ("lost", "REPLACE PARTITION", 0, "cut"),
        ("status", "REPLACE PARTITION", 502, "502"),
    ],
)
def test_a_load_that_loses_its_server_says_so_and_is_right_when_it_is_done_again(
    kind: str, match: str, amount: float, said: str, db: Database, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    clickhouse_server.fails(kind, match, amount)  # type: ignore[arg-type]
    with pytest.raises(ServerUnreachableError) as caught:
        load_partition(db, merged)
    assert_one_line(caught.value, f"table {db.database}.laion", said)
    assert PASSWORD not in str(caught.value)
    swapped = kind == "lost" and match == "REPLACE PARTITION"
    assert sum(state.rows for state in partitions(db)) == (merged.rows if swapped else 0)
    load_partition(db, merged)
    assert_right(db, merged)
    load_partition(db, merged)
    assert_right(db, merged)


def test_a_connection_that_is_cut_while_parts_are_merged_costs_nothing(
    db: Database, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    clickhouse_server.fails("lost", "OPTIMIZE")
    load_partition(db, merged)
    assert len(clickhouse_server.log("OPTIMIZE")) == 2
    assert_right(db, merged)


def test_an_index_build_goes_on_while_the_server_cannot_be_reached(
    db: Database, merged: MergedShard, clickhouse_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations_module, "RECONNECT_SECONDS", 0.1)
    load_partition(db, merged)
    started = start_mutation(db, declared(db))
    clickhouse_server.fails("status", r"max\(parts_to_do", 503, times=9)
    started.follow(db, "the build")
    assert unfinished_mutations(db) == []
    assert index_cover(db)[0].covered


def test_a_build_goes_on_where_a_busy_server_refuses_statements_for_a_moment(
    db: Database, merged: MergedShard, clickhouse_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations_module, "RECONNECT_SECONDS", 0.1)
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 0.1)
    load_partition(db, merged)
    refused = {
        r"max\(parts_to_do": 202,
        r"HAVING argMax\(until": 999,
        "data_compressed_bytes > 0": 242,
        "unreserved_space": 209,
        r"ORDER BY min\(create_time": 473,
        "REPLACE PARTITION": 202,
        "DROP TABLE .*_staging_": 425,
    }
    for match, code in refused.items():
        clickhouse_server.fails("refused", match, code, times=2)
    assert build_indexes(db).vectors == 2 * merged.rows
    assert index_cover(db)[0].covered
    assert db.rows(f"SHOW TABLES FROM {db.database} LIKE '%staging%'") == []
    assert len(clickhouse_server.log("REPLACE PARTITION")) == 1 + 3
    assert_right(db, merged)


def test_a_statement_that_a_busy_server_refuses_is_worth_repeating_and_one_that_is_too_large_is_not(
    db: Database, clickhouse_server: ServerProcess
) -> None:
    for code in (202, 241, 252, 999):
        clickhouse_server.fails("refused", "SELECT 41", code)
        with pytest.raises(ServerBusyError) as caught:
            db.one("SELECT 41 + 1")
        assert_one_line(caught.value, f"Code: {code}", "a less busy engine", "run this again")
    with pytest.raises(TableError, match="Query memory limit exceeded") as of_the_statement:
        db.one("SELECT groupArray(number) FROM numbers(10000000)", settings={"max_memory_usage": 1 << 20})
    assert not isinstance(of_the_statement.value, ServerBusyError)


def declared(db: Database) -> list[str]:
    """Returns the commands that build both indexes; the table declares the indexes, but they are not built."""
    declare_indexes(db, lambda _: None)
    return [f"MATERIALIZE INDEX {name} IN PARTITION 0" for name in ("image_index", "text_index")]


def test_a_query_is_asked_again_where_the_server_is_busy_for_a_moment(
    db: Database, clickhouse_server: ServerProcess
) -> None:
    clickhouse_server.fails("status", "SELECT 41", 503)
    assert db.one("SELECT 41 + 1") == (42,)
    clickhouse_server.fails("status", "SELECT 41", 503, times=10)
    with pytest.raises(ServerUnreachableError, match="503"):
        db.one("SELECT 41 + 1")


def test_a_server_that_does_not_answer_in_time_is_not_waited_for(
    db: Database, clickhouse_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWER_SECONDS", -0.5)
    clickhouse_server.fails("slow", "SELECT 43", 20, times=5)
    impatient = Database(
        db.client, db.settings.model_copy(update={"clickhouse_search_seconds": 1.0}), db.database, embedded=False
    )
    started = time.monotonic()
    with pytest.raises(ServerUnreachableError, match="no answer within the time limit"):
        impatient.one("SELECT 43")
    assert time.monotonic() - started < 19


def test_the_server_ends_a_statement_that_takes_too_long(db: Database) -> None:
    impatient = Database(
        db.client, db.settings.model_copy(update={"clickhouse_search_seconds": 1.0}), db.database, embedded=False
    )
    with pytest.raises(TableError, match="LAION_CLICKHOUSE_SEARCH_SECONDS") as caught:
        impatient.one("SELECT count() FROM numbers(100000000000000)")
    assert "TIMEOUT_EXCEEDED" in caught.value.found


def test_statements_of_a_load_may_take_longer_than_searches(
    db: Database, merged: MergedShard, clickhouse_server: ServerProcess
) -> None:
    load_partition(db, merged)
    limits = {
        (request["sql"].split()[0], "_staging_" in request["sql"]): request["settings"]["max_execution_time"]
        for request in clickhouse_server.log()
        if "max_execution_time" in request["settings"]
    }
    assert (limits["INSERT", True], limits["OPTIMIZE", True]) == ("3600", "3600")
    assert limits["INSERT", False] == "15", "a claim of a lease"
    clickhouse_server.calm()
    db.one("SELECT 1")
    assert [request["settings"]["max_execution_time"] for request in clickhouse_server.log()] == ["300"]


def test_a_wrong_password_is_refused_without_showing_it(settings: Settings, clickhouse_server: ServerProcess) -> None:
    with (
        pytest.raises(ServerRefusedError) as caught,
        connect(at(settings, clickhouse_server.url(password="wr0ng/s3cret"))),  # noqa: S106 - it opens nothing
    ):
        pass
    assert_one_line(caught.value, f"127.0.0.1:{clickhouse_server.port}", "Authentication failed", "LAION_CLICKHOUSE")
    assert "wr0ng" not in str(caught.value)


def test_a_server_that_was_killed_is_said_and_the_shard_is_loaded_when_it_is_back(
    settings: Settings, merged: MergedShard, tmp_path: Path
) -> None:
    folder = tmp_path / "server"
    with endpoint_process(folder) as server, connect(at(settings, server.url("kept"))) as db:
        kill = subprocess.Popen(["sh", "-c", f"sleep 0; kill -9 {server.process}"])
        kill.wait()
        with pytest.raises(ServerUnreachableError):
            load_partition(db, merged)
    with endpoint_process(folder) as server, connect(at(settings, server.url("kept"))) as db:
        load_partition(db, merged)
        assert_right(db, merged)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose certificate is signed by a private authority; the authority's certificate is `ca.pem`."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    with endpoint_process(folder, certificate=folder / "server.pem") as server:
        yield server


class TestTls:
    """Nothing is sent unless the server's certificate is valid."""

    def test_a_certificate_of_our_own_authority_is_trusted_where_the_settings_say_so(
        self, settings: Settings, secure: ServerProcess, merged: MergedShard
    ) -> None:
        ca_file = secure.user_files.parent / "ca.pem"
        with connect(at(settings, secure.url(), clickhouse_ca_file=ca_file)) as db:
            load_partition(db, merged)
            assert_right(db, merged)

    def test_an_unknown_authority_is_refused_before_the_password_is_sent(
        self, settings: Settings, secure: ServerProcess
    ) -> None:
        secure.calm()
        with pytest.raises(ServerRefusedError) as caught, connect(at(settings, secure.url())):
            pass
        assert_one_line(caught.value, "invalid TLS certificate", "LAION_CLICKHOUSE_CA_FILE")
        assert secure.log() == []

    def test_http_where_https_is_meant_is_said(self, settings: Settings, clickhouse_server: ServerProcess) -> None:
        url = clickhouse_server.url().replace("http:", "https:")
        with pytest.raises(ServerUnreachableError, match="no TLS"), connect(at(settings, url)):
            pass

    def test_a_port_that_does_not_answer_the_handshake_is_said(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some ClickHouse 18 servers without TLS do this too: they take the TLS hello for the start of a request."""
        monkeypatch.setattr(server_module, "ANSWER_SECONDS", 0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://127.0.0.1:{silent.getsockname()[1]}/x"
            slow = at(settings, url, clickhouse_connect_seconds=0.5)
            with pytest.raises(ServerUnreachableError) as caught, connect(slow):
                pass
        assert_one_line(caught.value, "no TLS", "handshake", "expected a TLS server")

    def test_a_ca_file_without_certificates_is_a_settings_error(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("nothing")
        insecure = at(settings, "https://me@127.0.0.1:9/x", clickhouse_ca_file=tmp_path / "ca.pem")
        with pytest.raises(SettingsError, match="LAION_CLICKHOUSE_CA_FILE"), connect(insecure):
            pass


def test_a_database_that_is_not_there_is_made(settings: Settings, clickhouse_server: ServerProcess) -> None:
    with connect(at(settings, clickhouse_server.url("made_here"))) as db:
        assert not table_exists(db)
        assert db.rows("SELECT 1 FROM system.databases WHERE name = 'made_here'") == [(1,)]


def test_a_server_that_was_built_without_vector_indexes_is_refused_before_anything_changes(db: Database) -> None:
    """Such a server does not know the index type. Here, an index type that no server knows stands for it."""
    create_table(db)
    with pytest.raises(ServerRefusedError) as caught:
        db.command(f"ALTER TABLE {db.table} ADD INDEX image_index image_embedding TYPE of_another_build")
    assert "built with vector_similarity" in str(caught.value)
    assert "of_another_build" in str(caught.value)
    assert_one_line(caught.value)
