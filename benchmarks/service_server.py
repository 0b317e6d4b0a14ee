"""Runs `laion-assets serve` as a separate process, and wrk, which sends requests to it. It reports nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.process import ROOT, anonymous_bytes
from laion_assets.settings import Settings
from laion_assets.table.vectors import Vectors

LIMIT = 40
"""Rows per search: as many as clip-retrieval's client requests."""

SCRIPT = """\
local bodies, number = {{}}, 0
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
request = function()
  number = number % #bodies + 1
  return wrk.format("POST", "/knn-service", nil, bodies[number])
end
done = function(summary, latency)
  local lost = summary.errors
  io.write(string.format('{{"requests": %d, "microseconds": %d, "errors": %d, "p50": %f, "p99": %f, "most": %f}}\\n',
    summary.requests, summary.duration, lost.connect + lost.read + lost.write + lost.status + lost.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk measured: answers per second, milliseconds, and requests that were lost or refused."""

    rate: float
    p50: float
    p99: float
    most: float
    requests: int
    errors: int


@dataclass(frozen=True)
class Server:
    """The running service: its port, its process, and the seconds from the process's start to its first answer."""

    port: int
    pid: int
    first_answer: float

    @property
    def bytes(self) -> int:
        """The anonymous memory of the service."""
        return anonymous_bytes(self.pid)


def require_wrk() -> None:
    """Ends the benchmark if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk, which is not on PATH: apt-get install wrk")


def environment(settings: Settings) -> dict[str, str]:
    """The variables that give another process these settings."""
    given = settings.model_dump(include=settings.model_fields_set)
    named = {f"LAION_{name.upper()}": str(value) for name, value in given.items() if name != "dataset_name"}
    return {**os.environ, **named, "LAION_DATASET": settings.dataset_name}


def write_bodies(queries: Vectors, folder: Path) -> Path:
    """Writes a file with one request body per query and line, and the script for wrk, whose path is returned."""
    bodies = folder / "bodies.jsonl"
    asked = {"modality": "image", "num_images": LIMIT, "indice_name": None}
    lines = (json.dumps({**asked, "embedding_input": [round(float(x), 6) for x in one]}) for one in queries)
    bodies.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = folder / "requests.lua"
    script.write_text(SCRIPT.format(bodies=bodies), encoding="utf-8")
    return script


@contextmanager
def serving(settings: Settings) -> Iterator[Server]:
    """Starts the service on a free port, and sends it a search by text as soon as it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "laion_assets.cli", "serve", "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment(settings), stdout=subprocess.DEVNULL)
    try:
        _first_answer(process, port)
        yield Server(port, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(30)


def _first_answer(process: subprocess.Popen[bytes], port: int) -> None:
    asked = {"modality": "image", "num_images": LIMIT, "indice_name": None, "text": "red bicycle"}
    while process.poll() is None:
        try:
            httpx.post(f"http://127.0.0.1:{port}/knn-service", json=asked, timeout=120).raise_for_status()
        except httpx.ConnectError:
            time.sleep(0.01)
            continue
        return
    sys.exit(f"laion-assets serve ended with exit code {process.returncode} before it answered")


def load(server: Server, script: Path, clients: int, seconds: float) -> Load:
    """Sends requests from `clients` clients at once. Each client sends its next request as soon as it has an answer."""
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds:g}s"]
    command += ["--timeout", "30s", "--script", str(script), f"http://127.0.0.1:{server.port}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(said.strip().splitlines()[-1])
    rate = found["requests"] / (found["microseconds"] / 1e6)
    return Load(rate, found["p50"], found["p99"], found["most"], found["requests"], found["errors"])
