"""Starts the endpoint as a separate process and controls it for tests. The test process opens no chDB."""

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

USER, PASSWORD = "loader", "g3h/eim#?@"  # not a real secret: it has characters that a URL must escape
_NUMBERS = count()


@dataclass(frozen=True)
class ServerProcess:
    """A running endpoint. Its `file()` may read `user_files`. `process` is its process id."""

    port: int
    process: int
    user_files: Path
    scheme: str = "http"
    authority: Path | None = None
    host: str = "127.0.0.1"

    def url(self, database: str = "", *, user: str = USER, password: str = PASSWORD) -> str:
        """A URL for LAION_CLICKHOUSE. If no database is named, each call names a new one."""
        name = database or f"test_{next(_NUMBERS)}"
        escaped = "".join(f"%{ord(sign):02X}" if sign in "/#?@" else sign for sign in password)
        return f"{self.scheme}://{user}:{escaped}@{self.host}:{self.port}/{name}"

    def fails(self, kind: Kind, match: str, amount: float = 0, times: int = 1) -> None:
        """Adds a fault for the next statements that match `match`."""
        self._request("POST", "/faults", json.dumps(asdict(Fault(kind, match, amount, times))).encode())

    def calm(self) -> None:
        """Removes all faults and empties the log."""
        self._request("POST", "/faults", b"")

    def log(self, match: str = "") -> list[dict[str, Any]]:
        """The requests since `calm` whose SQL contains `match`."""
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
    """Runs an endpoint with a chDB in `folder`, in a separate process, during the block.

    It listens on `host`, a loopback address such as 127.0.0.2, and on `port` (0: any free port). The nodes of a cluster
    use one port on several addresses. `certificate` also contains the key. The certificate of its authority, `ca.pem`,
    must be in the same folder.
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
        process.wait(90)  # on a busy machine the engine stops slowly
