"""Starts the endpoint as a process of its own, and talks to it for tests. The client's process opens no chDB."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import urllib3

from laion_assets_tests.endpoint.faults import Fault, Kind

USER, PASSWORD = "loader", "g3h/eim#?@"  # it opens nothing; signs that a URL must escape
_NUMBERS = count()


@dataclass(frozen=True)
class ServerProcess:
    """A running endpoint. `user_files` is where its `file()` may read; `process` is its id."""

    port: int
    process: int
    user_files: Path
    scheme: str = "http"
    authority: Path | None = None
    host: str = "127.0.0.1"

    def url(self, database: str = "", *, user: str = USER, password: str = PASSWORD) -> str:
        """For LAION_CLICKHOUSE; a database of its own for each call where none is named."""
        name = database or f"test_{next(_NUMBERS)}"
        escaped = "".join(f"%{ord(sign):02X}" if sign in "/#?@" else sign for sign in password)
        return f"{self.scheme}://{user}:{escaped}@{self.host}:{self.port}/{name}"

    def fails(self, kind: Kind, match: str, amount: float = 0, times: int = 1) -> None:
        """Lets something go wrong with the next statements that have `match`."""
        self._request("POST", "/faults", json.dumps(asdict(Fault(kind, match, amount, times))).encode())

    def calm(self) -> None:
        """Takes all faults back and empties the log."""
        self._request("POST", "/faults", b"")

    def log(self, match: str = "") -> list[dict[str, Any]]:
        """The requests since `calm` whose SQL has `match`."""
        asked: list[dict[str, Any]] = json.loads(self._request("GET", "/log"))
        return [request for request in asked if match in request["sql"]]

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        url = f"{self.scheme}://{self.host}:{self.port}{path}"
        with urllib3.PoolManager(ca_certs=self.authority and str(self.authority)) as pool:
            return pool.request(method, url, body=body).data


@contextlib.contextmanager
def endpoint_process(
    folder: Path,
    *,
    users: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
    certificate: Path | None = None,
    environment: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[ServerProcess]:
    """An endpoint over a chDB in `folder`, in a process of its own, while the block runs.

    `host` is an address of this machine, 127.0.0.2 say, on whose `port` (0: any that is free) it listens: the nodes of
    a cluster share one port. Beside `certificate`, which has its key too, is that of its authority, `ca.pem`.
    """
    user_files = folder / "user_files"
    user_files.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "laion_assets_tests.endpoint", str(folder / "clickhouse")]
    command += ["--user-files", str(user_files), "--host", host, "--port", str(port)]
    for name, password in (users or {USER: PASSWORD}).items():
        command += ["--user", f"{name}:{password}"]
    for name, value in (options or {}).items():
        command += ["--option", f"{name}={value}"]
    if certificate:
        command += ["--certificate", str(certificate)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    try:
        assert process.stdout is not None
        listening = process.stdout.readline()
        assert listening, "the endpoint did not start"
        authority = certificate and certificate.with_name("ca.pem")
        scheme = "https" if certificate else "http"
        yield ServerProcess(int(listening), process.pid, user_files, scheme, authority, host)
    finally:
        process.terminate()
        process.wait(90)  # an engine under a busy machine takes its time
