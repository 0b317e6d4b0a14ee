"""Tests the endpoint with the unmodified HTTP client of clickhouse-connect: it must behave as a server does."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, StreamFailureError

from laion_assets_tests.endpoint.process import PASSWORD, USER, ServerProcess, endpoint_process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with endpoint_process(tmp_path_factory.mktemp("endpoint")) as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    server.calm()
    with open_client(server) as opened:
        opened.command("CREATE OR REPLACE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        yield opened


def open_client(server: ServerProcess, **options: Any) -> Client:
    named = {"username": USER, "password": PASSWORD, "autogenerate_session_id": False, **options}
    return clickhouse_connect.get_client(host="127.0.0.1", port=server.port, **named)


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", ""])
def test_results_and_inserts_travel_compressed_as_the_client_asks(encoding: str, server: ServerProcess) -> None:
    rows = [[number, f"row {number} " * 50] for number in range(500)]
    with open_client(server, compress=encoding or False) as client:
        client.command("CREATE OR REPLACE TABLE packed (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        server.calm()
        assert client.insert("packed", rows, column_names=["a", "b"]).written_rows == 500
        assert client.query("SELECT * FROM packed ORDER BY a").result_rows == [tuple(row) for row in rows]
    (inserted,) = server.log("INSERT")
    (read,) = server.log("SELECT *")
    assert (inserted["content_encoding"], read["answer_encoding"]) == (encoding, encoding)
    assert inserted["chunked"]


def test_a_streamed_insert_of_any_format_arrives(client: Client) -> None:
    lines = (f"{number},x\n".encode() for number in range(10_000))
    assert client.raw_insert("t", ["a", "b"], lines, fmt="CSV").written_rows == 10_000
    assert client.query("SELECT count(), sum(a) FROM t").result_rows == [(10_000, 49_995_000)]


def test_parameters_travel_in_the_url_or_as_a_form(client: Client) -> None:
    text = "it's \\ a\ttext"
    assert client.query("SELECT {text:String}", parameters={"text": text}).result_rows == [(text,)]
    long = [float(number) for number in range(5_000)]
    assert list(client.query("SELECT {v:Array(Float32)}", parameters={"v": long}).result_rows[0][0]) == long


def test_settings_hold_for_their_own_query(client: Client) -> None:
    sql = "SELECT value FROM system.settings WHERE name = 'max_threads'"
    assert client.query(sql, settings={"max_threads": 3}).result_rows == [("3",)]
    assert client.query(sql).result_rows != [("3",)]
    with pytest.raises(DatabaseError, match="readonly"):
        client.command("INSERT INTO t VALUES (1, 'x')", settings={"readonly": 2})


def test_an_error_has_its_code_and_its_http_status(client: Client, server: ServerProcess) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT * FROM nowhere")
    assert caught.value.code == 60
    assert [(request["status"], request["code"]) for request in server.log("nowhere")] == [(404, 60)]


def test_an_error_in_the_middle_of_an_answer_is_seen(client: Client) -> None:
    with (
        pytest.raises(StreamFailureError, match="throwIf"),
        client.query_rows_stream("SELECT throwIf(number = 900000) FROM numbers(1000000)") as rows,
    ):
        for _ in rows:
            pass


@pytest.mark.parametrize(("user", "password"), [(USER, "wrong"), ("nobody", PASSWORD)])
def test_a_wrong_password_or_user_is_refused(user: str, password: str, server: ServerProcess) -> None:
    with pytest.raises(DatabaseError) as caught:
        open_client(server, username=user, password=password)
    assert caught.value.code == 516


def test_a_query_is_seen_and_killed_by_its_id(client: Client, server: ServerProcess) -> None:
    query_id, errors = str(uuid.uuid4()), list[DatabaseError]()

    def slow() -> None:
        with open_client(server) as other:
            try:
                other.query("SELECT count() FROM numbers(1000000000000)", settings={"query_id": query_id})
            except DatabaseError as error:
                errors.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    seen, deadline = 0, time.monotonic() + 20
    while not seen and time.monotonic() < deadline:
        ((seen,),) = client.query(f"SELECT count() FROM system.processes WHERE query_id = '{query_id}'").result_rows
    client.command(f"KILL QUERY WHERE query_id = '{query_id}' SYNC")
    thread.join(20)
    assert seen == 1
    assert [error.code for error in errors] == [394]


def test_a_session_keeps_its_temporary_tables(server: ServerProcess) -> None:
    with open_client(server, session_id="one") as one, open_client(server, session_id="two") as two:
        one.command("CREATE TEMPORARY TABLE mine (x UInt8)")
        assert one.query("SELECT count() FROM mine").result_rows == [(0,)]
        with pytest.raises(DatabaseError, match="mine"):
            two.query("SELECT count() FROM mine")


def test_files_outside_user_files_are_refused_as_on_a_server(client: Client, server: ServerProcess) -> None:
    (server.user_files / "here.csv").write_text("1,x\n")
    sql = "SELECT * FROM file('{}', 'CSV', 'a UInt8, b String')"
    assert client.query(sql.format("here.csv")).result_rows == [(1, "x")]
    for path in ("/etc/passwd", "../clickhouse/status"):
        with pytest.raises(DatabaseError, match="not inside"):
            client.query(sql.format(path))


def test_a_connection_that_is_cut_in_the_middle_of_an_insert_is_an_error(client: Client, server: ServerProcess) -> None:
    server.fails("cut", "INSERT", 100_000)
    with pytest.raises(OperationalError):
        client.raw_insert("t", ["a", "b"], (b"1,x\n" * 1_000 for _ in range(1_000)), fmt="CSV")
    assert client.query("SELECT 1").result_rows == [(1,)]


def test_an_answer_that_is_lost_leaves_the_rows(client: Client, server: ServerProcess) -> None:
    server.fails("lost", "INSERT")
    with pytest.raises(OperationalError):
        client.raw_insert("t", ["a", "b"], (b"1,x\n" for _ in range(3)), fmt="CSV")
    assert client.query("SELECT count() FROM t").result_rows == [(3,)]
