"""Helpers that fetch a shard quickly, in this process or in a new one. Few imports, so that a process starts fast."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

from laion_assets.settings import Settings, load_settings
from laion_assets.source.fetch import FetchedFile, fetch_shard
from laion_assets.source.fetch_limits import FetchLimits

SPAWN = multiprocessing.get_context("spawn")

QUICK = FetchLimits(
    tries=8,
    connect_seconds=2.0,
    read_seconds=2.0,
    file_seconds=20.0,
    backoff_seconds=0.01,
    backoff_most_seconds=0.05,
    floor_window_seconds=0.4,
    min_bytes_per_second=0,
)


def settings_for(*sources: str | Path, data_dir: Path, dataset: str | Path = "sample", **fields: Any) -> Settings:
    """Returns settings with these sources."""
    named = {"LAION_DATASET": str(dataset), "source": tuple(map(str, sources)), "data_dir": data_dir}
    return load_settings(**named, **fields)


def run(source: str, raw: Path, log: list[str] | None = None) -> list[FetchedFile]:
    """Fetches shard 0 in this process. The time limits are so long that no timeout is mistaken for an interrupt."""
    say = None if log is None else log.append
    limits = replace(QUICK, connect_seconds=60.0, read_seconds=60.0)
    return fetch_shard(settings_for(source, data_dir=raw.parent), 0, raw, limits=limits, log=say)


def run_and_tell(source: str, raw: Path, told: SimpleQueue[object]) -> None:
    """Fetches shard 0, and puts the bytes from the network, the time of an interrupt or the error in `told`."""
    told.put("started")
    try:
        told.put(sum(file.bytes_fetched for file in run(source, raw)))
    except KeyboardInterrupt:
        told.put(time.monotonic())
    except Exception as error:
        told.put(f"{error}")
        raise


@contextmanager
def process(source: str, raw: Path) -> Iterator[tuple[BaseProcess, Callable[[], object]]]:
    """Starts a process that fetches; yields the process and a function that returns its next message."""
    told = SPAWN.SimpleQueue()
    child = SPAWN.Process(target=run_and_tell, args=(source, raw, told))
    child.start()
    assert told.get() == "started"
    try:
        yield child, told.get
    finally:
        child.kill()
        child.join()
