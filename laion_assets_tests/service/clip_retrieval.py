"""Unpacks clip-retrieval's own client and front end from its wheel for tests. The package itself is not installed.

The package needs versions of numpy and torch that these tests do not have; the client's file and the built front end
need neither. If no package index can be reached, the tests that use them are skipped.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import pytest

WHEEL = "clip-retrieval==2.45.0"


def unpacked(folder: Path) -> Path:
    """Unpacks the wheel into this folder; skips the test if the wheel cannot be downloaded."""
    program = [uv, "pip"] if (uv := shutil.which("uv")) else [sys.executable, "-m", "pip"]
    target = ["--python", sys.executable] if uv else []
    command = [*program, "install", "--quiet", "--no-deps", *target, "--target", str(folder), WHEEL]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if ended.returncode:
        pytest.skip(f"{WHEEL} cannot be had from a package index: {ended.stderr.strip()[-200:]}")
    return folder


def client_module(folder: Path) -> ModuleType:
    """Imports only the module of `ClipClient`."""
    spec = importlib.util.spec_from_file_location("clip_client", folder / "clip_retrieval" / "clip_client.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def front_end(folder: Path, scratch: Path, backend: str) -> Path:
    """Copies the built front end and makes it ask this back end."""
    built = Path(shutil.copytree(folder / "front" / "build", scratch / "front"))
    config = {"defaultBackend": backend, "defaultIndex": "sample"}
    (built / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return built


@contextmanager
def files_served(folder: Path) -> Iterator[str]:
    """Serves a folder over HTTP on loopback; yields the base URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
