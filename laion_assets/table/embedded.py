"""The embedded engine (chDB): its options, who holds its folder, and which engines this process has open."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from laion_assets.errors import EngineHeldError, TableError
from laion_assets.machine import available_cores
from laion_assets.settings import Settings
from laion_assets.table.failures import first_sentence, unloadable
from laion_assets.table.functions import embedded_function_options
from laion_assets.waiting import say_wait

_engines: list[tuple[Path, Settings]] = []
_engines_lock = threading.RLock()
"""The embedded engines that this process has open, once for each connection."""


def open_embedded(folder: Path, settings: Settings, wait_seconds: float | None) -> Client:
    """Opens the engine in a folder of this machine, which is made where it is not there.

    Waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`) for another process that holds it. Raises
    `EngineHeldError`, `TableError`.
    """
    subject = f"embedded ClickHouse in {folder}"
    if "?" in str(folder):
        # chDB would take the rest of the path for options, and open another folder.
        raise TableError(subject, found="a ? in the path", expected="a path without it", advice="move LAION_DATA_DIR")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TableError(subject, found=f"{error.strerror}", expected="a folder that can be written") from error
    wait_seconds = settings.clickhouse_wait_seconds if wait_seconds is None else wait_seconds
    deadline = time.monotonic() + wait_seconds
    failures = 0
    told = False
    while True:
        # Asked first: the engine would write a line of its own to standard error at each try.
        holder = holder_of(folder)
        if holder is None:
            _require_writable(folder, subject)
            try:
                return embedded_client(folder, settings)
            except ClickHouseError as error:
                failures += 1
                holder = holder_of(folder)
                # Once is no proof: another process may have opened it, or asked as we do, at the same moment.
                if holder is None and failures > 1:
                    raise TableError(
                        subject,
                        found=_why_not_written(folder) or first_sentence(error),
                        expected="a folder that the engine can open",
                        advice="check that it can be written and was not made by a newer version",
                    ) from error
        if holder is not None and not told:
            say_wait(f"the {subject}, held by {holder}", wait_seconds)
            told = True
        if holder is not None and time.monotonic() >= deadline:
            raise EngineHeldError(
                subject,
                found=f"held by {holder}",
                expected=f"it to be free within {wait_seconds:g} s",
                advice="wait for that step to end, or use a ClickHouse server (LAION_CLICKHOUSE)",
            )
        time.sleep(0.25)


def embedded_client(folder: Path, settings: Settings) -> Client:
    """A client of an embedded engine; a process may have several, each for one thread. Close it.

    Raises `TableError`.
    """
    options = embedded_options(settings)
    try:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder), chdb_options=options)
    except ImportError as error:
        raise unloadable(error) from error


@contextlib.contextmanager
def in_use(folder: Path, settings: Settings) -> Iterator[None]:
    """Within the block `engines_in_use` names this engine."""
    engine = (folder, settings)
    with _engines_lock:
        _engines.append(engine)
    try:
        yield
    finally:
        with _engines_lock:
            _engines.remove(engine)


@contextlib.contextmanager
def engines_in_use() -> Iterator[dict[Path, Settings]]:
    """The folders of the embedded engines that this process has open; none is closed within the block."""
    with _engines_lock:
        yield dict(_engines)


def embedded_options(settings: Settings) -> dict[str, str]:
    """Server settings for the embedded engine: index cache, build threads, memory limit (0 leaves its own), functions.

    The engine's own 16 build threads spin on each other's node locks where they are more than the cores: on 2 cores
    they took 1.4 to 1.6 times the core-seconds of 2 threads (20,000 vectors, M 16).

    A mutation gives every part a new version, most of them by links alone. The engine takes on as many at a time as the
    ratio says, a multiple of its 2 threads: with its own ratio of 2 four, and then it pauses for most of a second. To
    index one of 200 partitions took 28 s, with a ratio of 100 0.2 s.
    """
    options = {
        "vector_similarity_index_cache_size": str(settings.index_cache_bytes),
        "max_build_vector_similarity_index_thread_pool_size": str(settings.index_build_threads or available_cores()),
        "background_merges_mutations_concurrency_ratio": "100",
        **embedded_function_options(settings),
    }
    if settings.clickhouse_memory_bytes:
        options["max_server_memory_usage"] = str(settings.clickhouse_memory_bytes)
    return options


def _require_writable(folder: Path, subject: str) -> None:
    """Raises `TableError` where the engine may not write: it would tell so on standard error in its own words, too."""
    for path in (folder, folder / "status"):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise TableError(
                subject,
                found=_why_not_written(folder) or f"that this user may not write {path}",
                expected="a folder that the engine can open",
                advice="check that it can be written by the user who runs this; LAION_DATA_DIR names another",
            )


def _why_not_written(folder: Path) -> str | None:
    """Why nothing can be written into a folder (the engine does not say); None where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def holder_of(folder: Path) -> str | None:
    """Which other process holds an embedded engine's folder, in words; None when none does.

    A process may open its own engine several times: a cluster's node is asked beside the connection that names it.
    """
    process = holding_process(folder)
    if process is None or process == os.getpid():
        return None
    return f"process {process}" if process else "another process"


def holding_process(folder: Path) -> int | None:
    """Which process holds an embedded engine's folder, by its `status` file: 0 for one that is not named there, None
    when none does.

    The engine reports a held folder in two ways, one of which has no reason in it, so its lock is asked directly.
    """
    status = folder / "status"
    try:
        with status.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found = re.search(r"PID: (\d+)", file.read())
                return int(found[1]) if found else 0
    except OSError:
        return None
    return None
