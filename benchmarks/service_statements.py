"""Program: runs the service's SQL statements from several threads of one process, without HTTP. Prints one JSON object.

`python -m benchmarks.service_statements QUERIES.npy THREADS SECONDS`, with the table's LAION_* variables.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.service_server import LIMIT
from laion_assets.clip.ready import open_encoder
from laion_assets.searcher import Searcher
from laion_assets.searching.request import SearchRequest
from laion_assets.searching.statement import search_statement
from laion_assets.settings import load_settings
from laion_assets.table.vectors import Vectors

REQUEST = SearchRequest(limit=LIMIT, settings=(("log_comment", "reference"),))


def main() -> None:
    """Measures the time to open model and engine, then searches for SECONDS."""
    queries, threads, seconds = np.load(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    settings = load_settings()
    started = time.perf_counter()
    open_encoder(settings).encode_texts(["red bicycle"])
    with Searcher(settings) as searcher:
        _ask(searcher, queries[0])
        opened = time.perf_counter() - started
        searcher.warm()
        rate = _rate(searcher, queries, threads, seconds)
    sys.stdout.write(json.dumps({"open_seconds": opened, "rate": rate}) + "\n")


def _ask(searcher: Searcher, vector: Vectors) -> int:
    with searcher.connection() as db:
        statement = search_statement(db, REQUEST, vector)
        return len(db.rows(statement.sql, settings=statement.settings, text_as_bytes=True))


def _rate(searcher: Searcher, queries: Vectors, threads: int, seconds: float) -> float:
    """Statements per second."""
    numbers, ended = itertools.count(), threading.Event()

    def ask_on() -> int:
        asked = 0
        while not ended.is_set():
            _ask(searcher, queries[next(numbers) % len(queries)])
            asked += 1
        return asked

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        asking = [pool.submit(ask_on) for _ in range(threads)]
        time.sleep(seconds)
        ended.set()
        asked = sum(one.result() for one in asking)
        return asked / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
