"""Starts the real dagster-webserver and dagster-daemon for a test, and sends GraphQL queries to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import httpx

from laion_assets_tests.postgres import free_port

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
LESS_OFTEN, MORE_OFTEN = "poll_interval_seconds: 20", "poll_interval_seconds: 2"
"""How often the daemon looks for runs whose process has died. The shorter interval saves idle waiting in tests."""


class Services:
    """A webserver and a daemon, with the environment that their code location reads. Stop them after use.

    `config` is one of the project's Dagster configuration files. With `quick`, the daemon uses shorter intervals than
    `config` says, to save idle waiting. Nothing else is changed.
    """

    def __init__(
        self, home: Path, environment: Mapping[str, str], config: str = "dagster.yaml", *, quick: bool = True
    ) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        configured = (PROJECT / config).read_text()
        assert LESS_OFTEN in configured
        (home / "dagster.yaml").write_text(configured.replace(LESS_OFTEN, MORE_OFTEN) if quick else configured)
        self._daemon = "laion_assets_tests.automation.daemon" if quick else "dagster._daemon"
        (home / "workspace.yaml").write_text((PROJECT / "workspace.yaml").read_text())
        self._environment = {**os.environ, **environment, "DAGSTER_HOME": str(home), "PYTHONPATH": str(PROJECT)}
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._instance: dg.DagsterInstance | None = None

    @property
    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance. It is opened once, because opening takes longer than most queries."""
        if self._instance is None:
            self._instance = dg.DagsterInstance.from_config(str(self.home))
        return self._instance

    def start_webserver(self) -> None:
        """Starts the webserver and waits until it answers."""
        self._start("webserver", "dagster_webserver", "-h", "127.0.0.1", "-p", str(self._port))
        wait_for(lambda: self._answers() or None, seconds=120, what="the webserver")

    def start_daemon(self) -> None:
        """Starts the daemon."""
        self._start("daemon", self._daemon, "run")

    def kill(self, name: str) -> None:
        """Sends SIGKILL to "webserver" or "daemon": the process cannot clean up, and the runs it launched continue."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Ends all processes."""
        if self._instance is not None:
            self._instance.dispose()
        for process in self._processes.values():
            os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def query(self, query: str, **variables: Any) -> Any:
        """Sends a GraphQL query and returns the `data` of the answer."""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch_backfill(self, assets: list[str], shards: list[str]) -> str:
        """Launches a backfill as the UI does and returns its id."""
        data = self.query(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename "
            "... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p={"assetSelection": [{"path": [asset]} for asset in assets], "partitionNames": shards, "tags": []},
        )["launchPartitionBackfill"]
        assert data["__typename"] == "LaunchBackfillSuccess", data
        return str(data["backfillId"])

    def backfill_status(self, backfill: str) -> str:
        """The status of a backfill: REQUESTED, COMPLETED_SUCCESS, COMPLETED_FAILED, …"""
        data = self.query(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }",
            id=backfill,
        )
        return str(data["partitionBackfillOrError"]["status"])

    def _start(self, name: str, module: str, *arguments: str) -> None:
        log = (self.home / f"{name}.log").open("ab")
        command = [sys.executable, "-m", module, *arguments, "-w", str(self.home / "workspace.yaml")]
        self._processes[name] = subprocess.Popen(
            command, cwd=self.home, env=self._environment, stdout=log, stderr=log, start_new_session=True
        )

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/server_info", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


def wait_for(look: Callable[[], T | None], *, seconds: float, what: str) -> T:
    """Calls `look` until it returns something other than None, and returns that. Fails after `seconds`.

    The longer it has waited, the longer it pauses, up to a second: each look takes CPU time from what it waits for.
    """
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < seconds:
        found = look()
        if found is not None:
            return found
        time.sleep(min(1.0, 0.1 + waited / 20))
    raise AssertionError(f"{what} did not happen within {seconds} s")
