"""A server that imports the command's modules once, and forks a process for each program that it is asked to run.

Start it with `python -m laion_assets_tests.forked SOCKET`; it ends when its standard input is closed. It opens no files
and starts no threads, so a forked process is like a fresh interpreter after its imports. These imports take most of a
short command's time.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import warnings
from typing import Any

LIBRARIES = ("matplotlib.pyplot", "pandas", "sqlalchemy.dialects.sqlite", "dagster._core.storage.event_log")
ROOMS = ("definitions", "service.app", "terminal")
"""Without chDB, whose import starts threads, and without `cli`, whose consoles read the environment when made."""


def prepare() -> None:
    """Imports the modules that commands use. A warning is an error here, because a command would have printed it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in LIBRARIES:
            importlib.import_module(name)
        for name in ROOMS:
            package = importlib.import_module(f"laion_assets.{name}")
            for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                importlib.import_module(f"laion_assets.{name}.{module.name}")


def serve(path: str) -> dict[str, Any] | None:
    """Forks a process for each client, and sends the client its id and exit code; in the process, returns its task."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, socket.socket] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        ready, _, _ = select.select([listener, woken, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        if woken in ready:
            os.read(woken, 4096)
            _tell_of_ends(running)
        if listener in ready:
            caller, _ = listener.accept()
            message, files, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for each in (listener, caller, *running.values()):
                    each.close()
                for descriptor in (woken, wake):
                    os.close(descriptor)
                return {**json.loads(message), "files": files}
            for descriptor in files:
                os.close(descriptor)
            running[child] = caller
            caller.sendall(f"{child}\n".encode())


def _tell_of_ends(running: dict[int, socket.socket]) -> None:
    for child in [*running]:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError), running.pop(child) as caller:
                caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def become(asked: dict[str, Any]) -> None:
    """Runs `-m MODULE …` or `-c PROGRAM …` to its end in the given folder, with the given environment and streams."""
    for number, descriptor in enumerate(asked["files"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    kind, program, *arguments = asked["arguments"]
    sys.argv = [kind, *arguments]
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(program, {"__name__": "__main__"})  # noqa: S102 - a test's program
    except SystemExit as ended:
        _end.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    except BaseException:
        _end.code = 1
        raise


class _End:
    """Ends the process after all exit handlers: the interpreter's own cleanup would copy all shared memory."""

    code = 0

    def __call__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(self.code)


_end = _End()

if __name__ == "__main__":
    atexit.register(_end)  # the first that is registered is the last that is called
    prepare()
    gc.collect()
    gc.freeze()
    todo = serve(sys.argv[1])
    if todo is not None:
        become(todo)
