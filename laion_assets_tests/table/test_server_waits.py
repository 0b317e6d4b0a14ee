"""Tests of a ClickHouse server that answers late and of a proxy that cannot be used: messages say so."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets.errors import ServerRefusedError
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import assert_one_line


class LateServer(http.server.BaseHTTPRequestHandler):
    """A service that was paused: it answers its first request after 2.5 s, here with the version of an old server."""

    def do_GET(self) -> None:
        time.sleep(2.5)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"24.1.1.1\n")

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@pytest.fixture
def late() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LateServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://me:hunter2@127.0.0.1:{server.server_port}/db"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_was_paused_is_waited_for_and_that_is_said(
    late: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings(clickhouse=late, data_dir=tmp_path, clickhouse_connect_seconds=1)
    with pytest.raises(ServerRefusedError, match=r"24\.1"), connect(settings):
        pass
    (said,) = [record.getMessage() for record in caplog.records if record.name == "laion_assets.waiting"]
    assert said.startswith("waiting for an answer of ClickHouse at http://127.0.0.1:")
    assert "until" in said and "Ctrl-C" in said and "hunter2" not in said


@pytest.mark.parametrize("proxy", ["socks5://u:hunter2@127.0.0.1:1080", "socks://127.0.0.1:1080"])
def test_a_proxy_of_another_kind_is_refused(proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with (
        pytest.raises(ServerRefusedError) as caught,
        connect(load_settings(clickhouse="http://u:p@ch.example:8123/db", data_dir=tmp_path)),
    ):
        pass
    assert_one_line(caught.value, "proxy socks", "http://host:port", "NO_PROXY")
    assert "hunter2" not in str(caught.value)
