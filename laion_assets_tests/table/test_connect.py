"""Tests of connecting to the engine's folder, held or free, and to wrong servers: clear errors without secrets."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from laion_assets.errors import EngineHeldError, ServerRefusedError, TableError
from laion_assets.machine import available_cores
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.table.loaded import holder
from laion_assets_tests.torture.adversity import remount, small_disk

SECRET = "hunter2-s3cret"  # noqa: S105 - it opens nothing


def server_settings(url: str) -> Settings:
    """Returns settings with this server's URL."""
    return load_settings(dataset_name="sample", clickhouse=url)


def test_the_embedded_engine_is_opened_in_the_store(settings: Settings) -> None:
    with connect(settings) as db:
        assert db.embedded
        assert db.table == "`default`.`laion`"
        assert db.one("SELECT 1 + 1") == (2,)
    assert (settings.data_dir / "clickhouse").is_dir()


def test_what_was_stored_is_there_when_the_folder_is_opened_again(settings: Settings) -> None:
    with connect(settings) as db:
        db.command("CREATE TABLE kept (x UInt8) ENGINE = MergeTree ORDER BY x")
        db.command("INSERT INTO kept VALUES (7)")
    with connect(settings) as db:
        assert db.rows("SELECT x FROM kept") == [(7,)]


def test_an_index_is_built_by_as_many_threads_as_there_are_cores(settings: Settings) -> None:
    sql = "SELECT value FROM system.server_settings WHERE name = 'max_build_vector_similarity_index_thread_pool_size'"
    with connect(settings) as db:
        assert db.one(sql) == (str(available_cores()),)


@pytest.mark.parametrize(("quota", "cores"), [(None, 2), (0.5, 1), (1.0, 1), (1.5, 2), (8.0, 2)])
def test_a_quota_of_cpu_time_counts_as_cores(quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laion_assets.machine.allowed_cores", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert available_cores() == cores


def test_one_process_may_open_its_engine_several_times(settings: Settings) -> None:
    with connect(settings) as first, connect(settings) as second:
        first.command("CREATE TABLE kept (x UInt8) ENGINE = MergeTree ORDER BY x")
        assert second.rows("SELECT count() FROM kept") == [(0,)]


@pytest.mark.parametrize(
    "name", ['a\'b "c"', "with space", "per%20cent", "ünï-çødé", "a&b=c", "semi;colon", "hash#tag"]
)
def test_folders_of_any_name_are_opened(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    settings = load_settings(dataset_name="sample", data_dir=folder)
    with connect(settings) as db:
        db.command("CREATE TABLE here (x UInt8) ENGINE = MergeTree ORDER BY x")
    assert (folder / "clickhouse" / "store").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_may_be_named_in_the_url(tmp_path: Path) -> None:
    with connect(server_settings(f"chdb://{tmp_path}/the%20table")) as db:
        db.command("CREATE TABLE here (x UInt8) ENGINE = MergeTree ORDER BY x")
    assert (tmp_path / "the table" / "store").is_dir()


def test_a_statement_that_fails_is_one_line_without_a_stack_trace(settings: Settings) -> None:
    with connect(settings) as db:
        with pytest.raises(TableError) as caught:
            db.rows("SELECT * FROM nowhere")
        assert_one_line(caught.value, "table default.laion", "nowhere")
        assert "Stack trace" not in str(caught.value)
        assert "version" not in str(caught.value)
        with pytest.raises(TableError, match="found 3 rows, expected one row"):
            db.one("SELECT number FROM numbers(3)")
        assert db.one("SELECT 1") == (1,)


def test_a_folder_that_another_process_holds_is_an_error_that_names_the_process(settings: Settings) -> None:
    with holder(settings.data_dir) as process:
        started = time.monotonic()
        with pytest.raises(EngineHeldError) as caught, connect(settings):
            pass
        assert time.monotonic() - started >= settings.clickhouse_wait_seconds
    assert_one_line(caught.value, f"held by process {process.pid}", "within 0.5 s", "LAION_CLICKHOUSE")
    assert str(settings.data_dir / "clickhouse") in str(caught.value)


def test_a_folder_that_becomes_free_while_we_wait_is_opened(settings: Settings) -> None:
    patient = settings.model_copy(update={"clickhouse_wait_seconds": 30.0})
    with holder(settings.data_dir) as process:
        assert process.stdin is not None
        threading.Timer(0.8, lambda: process.stdin and (process.stdin.write("\n"), process.stdin.flush())).start()
        with connect(patient) as db:
            assert db.one("SELECT 1") == (1,)
        assert process.wait(10) == 0


def test_a_folder_whose_holder_was_killed_is_opened_at_once(settings: Settings) -> None:
    with holder(settings.data_dir) as process:
        process.kill()
        process.wait(10)
        with connect(settings) as db:
            assert db.one("SELECT 1") == (1,)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = load_settings(dataset_name="sample", data_dir=tmp_path / "file")
    with pytest.raises(TableError) as caught, connect(settings):
        pass
    assert_one_line(caught.value, str(tmp_path / "file"), "a folder that can be written")


def test_a_folder_that_cannot_be_written_is_said_as_the_disk_says_it(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path / "small")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "small"))
        except PermissionError as error:
            pytest.skip(str(error))
        remount(tmp_path / "small", "ro")
        with pytest.raises(TableError) as caught, connect(settings):
            pass
        assert_one_line(caught.value, "Read-only file system")
        remount(tmp_path / "small", "rw")
        with connect(settings) as db:
            db.command("CREATE TABLE t (n Int8) ENGINE = MergeTree ORDER BY n")
        remount(tmp_path / "small", "ro")
        with pytest.raises(TableError) as caught, connect(settings):
            pass
        assert_one_line(caught.value, str(tmp_path / "small"), "Read-only file system", "check that it can be written")


def test_a_server_that_does_not_answer_is_one_clear_error_without_the_password() -> None:
    settings = server_settings(f"http://me:{SECRET}@127.0.0.1:9/laion")
    with pytest.raises(TableError) as caught, connect(settings):
        pass
    assert_one_line(caught.value, "ClickHouse at http://127.0.0.1:9", "refused")
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_host_that_does_not_exist_is_one_clear_error() -> None:
    with pytest.raises(TableError) as caught, connect(server_settings(f"https://me:{SECRET}@no.such.host.invalid/db")):
        pass
    assert_one_line(caught.value, "ClickHouse at https://no.such.host.invalid")
    assert SECRET not in str(caught.value)


def test_a_folder_that_the_engine_would_take_for_another_is_refused(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path / "wh?t")
    with pytest.raises(TableError) as caught, connect(settings):
        pass
    assert_one_line(caught.value, str(tmp_path / "wh?t"), "move LAION_DATA_DIR")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_too_old_is_refused_by_its_version() -> None:
    for version in (b"18.16.1\n", b"24.8.14.39\n", b"25.7.12.1\n"):
        with (
            impostor(200, version) as port,
            pytest.raises(ServerRefusedError) as caught,
            connect(server_settings(f"http://127.0.0.1:{port}")),
        ):
            pass
        assert_one_line(caught.value, f"found ClickHouse {version.decode().strip()}", "expected 25.8 or newer")


class Impostor(BaseHTTPRequestHandler):
    """A web server that is not ClickHouse, or a ClickHouse that does not know the user."""

    status = 200
    body = b"<html><body>Welcome to nginx!</body></html>"

    def do_POST(self) -> None:
        """Gives the same answer to each request."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


@contextmanager
def impostor(status: int, body: bytes) -> Iterator[int]:
    """Starts a server that always gives this answer; yields its port."""
    kind = type("Answers", (Impostor,), {"status": status, "body": body})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html><body>Welcome to nginx!</body></html>"),
        (200, b""),
        (404, b"<html>not found</html>"),
        (502, b"bad gateway"),
        (200, b"25.7.12.1\n"),
        (200, b"18.16.1\n"),
        (403, b"Code: 516. DB::Exception: me: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"),
    ],
)
def test_a_server_that_is_no_clickhouse_or_refuses_us_is_one_clear_error(status: int, body: bytes) -> None:
    with impostor(status, body) as port:
        with (
            pytest.raises(TableError) as caught,
            connect(server_settings(f"http://me:{SECRET}@127.0.0.1:{port}/laion")),
        ):
            pass
        assert_one_line(caught.value, f"ClickHouse at http://127.0.0.1:{port}")
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 600
