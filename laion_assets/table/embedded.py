"""The embedded engine (chDB): its options, which process holds its folder, and which engines this process has open."""

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
"""The embedded engines that this process has open; an engine comes once for each connection."""


def open_embedded(folder: Path, settings: Settings, wait_seconds: float | None) -> Client:
    """Opens the engine in a folder of this machine; the folder is made if it does not exist.

    Waits `wait_seconds` (None: the settings' `clickhouse_wait_seconds`) if another process holds it. Raises
    `EngineHeldError`, `TableError`.
    """
    subject = f"embedded ClickHouse in {folder}"
    if "?" in str(folder):
        # chDB would read the rest of the path as options, and open another folder.
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
        # Checked first: the engine writes a line to standard error for each try that fails.
        holder = holder_of(folder)
        if holder is None:
            _require_writable(folder, subject)
            try:
                return embedded_client(folder, settings)
            except ClickHouseError as error:
                failures += 1
                holder = holder_of(folder)
                # One failure proves nothing: another process may have opened or checked it at the same moment.
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
                expected=f"the folder to be free within {wait_seconds:g} s",
                advice="wait for that step to end, or use a ClickHouse server (LAION_CLICKHOUSE)",
            )
        time.sleep(0.25)


def embedded_client(folder: Path, settings: Settings) -> Client:
    """A client of an embedded engine. A process may have several, each for one thread. The caller must close it.

    Raises `TableError`.
    """
    options = embedded_options(settings)
    try:
        return clickhouse_connect.get_client(interface="chdb", path=str(folder), chdb_options=options)
    except ImportError as error:
        raise unloadable(error) from error


@contextlib.contextmanager
def in_use(folder: Path, settings: Settings) -> Iterator[None]:
    """While the block runs, `engines_in_use` has this engine."""
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
    """The folders of the embedded engines that this process has open; none of them is closed while the block runs."""
    with _engines_lock:
        yield dict(_engines)


def embedded_options(settings: Settings) -> dict[str, str]:
    """Server settings for the embedded engine: index cache, build threads, memory limit (0 means the engine's own),
    functions.

    The engine's own 16 build threads spin on each other's locks if there are fewer cores: on 2 cores they took 1.4 to
    1.6 times the core-seconds of 2 threads (20,000 vectors, M 16).

    A mutation gives every part a new version, for most parts only by links. The number of parts at a time is a ratio
    times the engine's 2 threads: with its own ratio of 2 it is four, and after them the engine pauses for most of a
    second. Indexing one of 200 partitions took 28 s so, and 0.2 s with a ratio of 100.
    """
    options = {
        # A generation of cells, which is one partition, is dropped when a newer one replaces it. The default is 50 GB.
        "max_partition_size_to_drop": "0",
        "max_table_size_to_drop": "0",
        "vector_similarity_index_cache_size": str(settings.index_cache_bytes),
        "max_build_vector_similarity_index_thread_pool_size": str(settings.index_build_threads or available_cores()),
        "background_merges_mutations_concurrency_ratio": "100",
        **embedded_function_options(settings),
    }
    if settings.clickhouse_memory_bytes:
        options["max_server_memory_usage"] = str(settings.clickhouse_memory_bytes)
    return options


def _require_writable(folder: Path, subject: str) -> None:
    """Raises `TableError` if the engine cannot write. The engine itself would also print an error of its own."""
    for path in (folder, folder / "status"):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise TableError(
                subject,
                found=_why_not_written(folder) or f"that this user may not write {path}",
                expected="a folder that the engine can open",
                advice="check that it can be written by the user who runs this; LAION_DATA_DIR names another",
            )


def _why_not_written(folder: Path) -> str | None:
    """Why nothing can be written into a folder (the engine does not tell); None if it can be written."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def holder_of(folder: Path) -> str | None:
    """Which other process holds an embedded engine's folder, in words; None if none does.

    A process may open its own engine several times: for a cluster's node in addition to the first connection.
    """
    process = holding_process(folder)
    if process is None or process == os.getpid():
        return None
    return f"process {process}" if process else "another process"


def holding_process(folder: Path) -> int | None:
    """Which process holds an embedded engine's folder, by the engine's `status` file; 0 if the file does not name it,
    None if no process does.

    The engine reports a held folder in two ways, one of them without a reason, so its lock is checked directly.
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
