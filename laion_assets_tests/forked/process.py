"""Runs Python programs in new processes, as `subprocess` does, but forked from a process that has done the imports."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


@functools.cache
def _server() -> str:
    """Starts this process's server, which ends when this process ends, and returns the path of its socket."""
    path = Path(tempfile.mkdtemp(prefix="forked-")) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "laion_assets_tests.forked", str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n", "the server of forked processes did not start"
    return str(path)


class ForkedProcess:
    """A running process. Read its output with `communicate`, or line by line from `stdout` and `stderr`.

    `arguments` are those of `python`: `-m MODULE …` or `-c PROGRAM …`. The standard error of a `quiet` process goes to
    the null device.
    """

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str], quiet: bool = False) -> None:
        self.args = arguments
        self.returncode: int | None = None
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        ours_err, theirs_err = os.pipe()
        self.stdin: IO[str] = os.fdopen(ours_in, "w")
        self.stdout: IO[str] = os.fdopen(ours_out)
        self.stderr: IO[str] = os.fdopen(ours_err)
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(_server())
        asked = {"arguments": arguments, "folder": str(cwd), "environment": dict(env)}
        if quiet:
            os.close(theirs_err)
            theirs_err = os.open(os.devnull, os.O_WRONLY)
        files = [theirs_in, theirs_out, theirs_err]
        socket.send_fds(self._line, [json.dumps(asked).encode()], files)
        for descriptor in files:
            os.close(descriptor)
        self.pid = int(self._said(None))

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal's number, or None while the process runs."""
        if self.returncode is None:
            with contextlib.suppress(TimeoutError):
                self.returncode = int(self._said(0.0))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end and returns the exit code. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            try:
                self.returncode = int(self._said(timeout))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Closes the input, and returns all output until the end. Raises `subprocess.TimeoutExpired`."""
        self.stdin.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        with selectors.DefaultSelector() as both:
            both.register(self.stdout, selectors.EVENT_READ, "stdout")
            both.register(self.stderr, selectors.EVENT_READ, "stderr")
            while both.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                for key, _ in both.select(left):
                    data = os.read(key.fd, 1 << 16)
                    said[key.data].append(data)
                    if not data:
                        both.unregister(key.fileobj)
        self.wait(None if deadline is None else max(1.0, deadline - time.monotonic()))
        return b"".join(said["stdout"]).decode(), b"".join(said["stderr"]).decode()

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.stderr.close()
        self.wait()
        self._line.close()

    def _said(self, timeout: float | None) -> str:
        """Returns the server's next line about this process. Raises `TimeoutError`."""
        self._line.settimeout(timeout if timeout != 0.0 else 1e-6)
        said = b""
        while not said.endswith(b"\n"):
            data = self._line.recv(1)
            assert data, "the server of forked processes is gone"
            said += data
        return said.decode()


def run_forked(*arguments: str, cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end; if it takes too long, kills it and raises `subprocess.TimeoutExpired`."""
    with ForkedProcess(*arguments, cwd=cwd, env=env) as process:
        try:
            said, complained = process.communicate(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(arguments, process.wait(), said, complained)
