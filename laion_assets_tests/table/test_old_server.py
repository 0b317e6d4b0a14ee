"""Tests with a real ClickHouse server, Debian's 18.16.1: clear errors for its old version and wrong users or ports."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from laion_assets.errors import ServerRefusedError, ServerUnreachableError
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import assert_one_line

PROGRAM = shutil.which("clickhouse-server")
PASSWORD = "old-s3cret"  # noqa: S105 - it opens nothing
CONFIG = """<yandex><logger><level>warning</level><console>1</console></logger>
<http_port>{port}</http_port><tcp_port>{tcp}</tcp_port><listen_host>127.0.0.1</listen_host>
<path>{folder}/</path><tmp_path>{folder}/tmp/</tmp_path><users_config>{folder}/users.xml</users_config>
<default_profile>default</default_profile><default_database>default</default_database>
<mark_cache_size>5368709120</mark_cache_size></yandex>"""
USERS = f"""<yandex><profiles><default/></profiles><quotas><default/></quotas><users><default>
<password>{PASSWORD}</password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
</default></users></yandex>"""

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Debian's clickhouse-server is not installed")


def free_port() -> int:
    """Returns a loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The HTTP port of the server while the tests run."""
    folder, http, tcp = tmp_path_factory.mktemp("old"), free_port(), free_port()
    (folder / "users.xml").write_text(USERS)
    (folder / "config.xml").write_text(CONFIG.format(folder=folder, port=http, tcp=tcp))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(PROGRAM), f"--config-file={folder / 'config.xml'}"], cwd=folder, stdout=log, stderr=log
        )
        try:
            _wait_for(http, process, folder / "log")
            yield http
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if urllib3.request("GET", f"http://127.0.0.1:{port}/ping", retries=False).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.2)
    pytest.fail(f"it did not start: {log.read_text()[-2_000:]}")


def test_an_old_server_is_refused_by_its_version(port: int) -> None:
    settings = load_settings(dataset_name="sample", clickhouse=f"http://default:{PASSWORD}@127.0.0.1:{port}/laion")
    with pytest.raises(ServerRefusedError) as caught, connect(settings):
        pass
    assert_one_line(caught.value, f"http://127.0.0.1:{port}", "found ClickHouse 18.16.1", "25.8 or newer")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(("user", "password"), [("default", "wr0ng-one"), ("nobody", PASSWORD)])
def test_a_real_server_refuses_a_wrong_password_and_an_unknown_user(user: str, password: str, port: int) -> None:
    settings = load_settings(dataset_name="sample", clickhouse=f"http://{user}:{password}@127.0.0.1:{port}/laion")
    with pytest.raises(ServerRefusedError) as caught, connect(settings):
        pass
    assert_one_line(caught.value, f"http://127.0.0.1:{port}", user, "see user and password in LAION_CLICKHOUSE")
    assert password not in str(caught.value)


def test_https_to_a_real_server_without_tls_is_said(port: int) -> None:
    with (
        pytest.raises(ServerUnreachableError, match="no TLS"),
        connect(load_settings(dataset_name="sample", clickhouse=f"https://127.0.0.1:{port}/x")),
    ):
        pass


def test_a_port_that_nobody_listens_on_is_said() -> None:
    with (
        pytest.raises(ServerUnreachableError, match="refused"),
        connect(load_settings(dataset_name="sample", clickhouse=f"http://127.0.0.1:{free_port()}/x")),
    ):
        pass
