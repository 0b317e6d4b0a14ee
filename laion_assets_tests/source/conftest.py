"""The fixtures that the tests of sources share: a server that misbehaves, and one file to fetch from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laion_assets_tests.source.misbehaving_server import MisbehavingServer, misbehaving_server
from laion_assets_tests.source.served_shard import FILES, OneFile


@pytest.fixture(autouse=True)
def _no_proxy_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def shared_server() -> Iterator[MisbehavingServer]:
    with misbehaving_server(FILES) as server:
        yield server


@pytest.fixture
def server(shared_server: MisbehavingServer) -> MisbehavingServer:
    shared_server.requests.clear()
    shared_server.counts.clear()
    shared_server.calm = False
    shared_server.most_at_once = 0
    return shared_server


@pytest.fixture
def one(tmp_path: Path) -> OneFile:
    return OneFile(tmp_path / "raw")
