"""Benchmark: what an open `Searcher` costs beyond its SQL statement, the cost of a condition, and many queries in one
call."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.harness import Spread
from benchmarks.report import Section
from benchmarks.search_data import vector_table
from benchmarks.search_truth import sample_vectors
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.query import Query
from laion_assets.searcher import Searcher
from laion_assets.searching.query_vector import checked_vector
from laion_assets.searching.request import SearchRequest
from laion_assets.searching.statement import search_statement
from laion_assets.settings import Settings
from laion_assets.table.vectors import Vectors

ABOUT = """\
One part of {rows:,} sample vectors, {parameters}, ef {ef}, no rescoring, k = 10, embedded engine. There are {queries}
queries per round and {runs} rounds. The ways take turns. CPU time is that of the process, all threads."""

HALF = "id % 2 = 0"


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks searcher`."""
    options = parser(__doc__, "searcher")
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--queries", type=int, default=1_000)
    options.add_argument("--runs", type=int, default=3, help="rounds")
    options.add_argument("--ef", type=int, default=64)
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters("bf16", 16, 64))
    given = options.parse_args(arguments)
    with reported("searcher", ABOUT.format(**vars(given)), given) as report:
        data = sample_vectors(report.scratch / "sample", given.rows, given.queries)
        with vector_table(report.scratch / "ours", "ours", data.vectors, given.parameters, report.say) as db:
            build_indexes(db, log=report.say)
            settings = db.settings
        measure(report, settings, data.queries["image→image"], given.ef, given.runs)
    return report.section


def measure(report: GrowingReport, settings: Settings, queries: Vectors, ef: int, runs: int) -> None:
    """Measures an existing table."""
    request = SearchRequest(settings=(("hnsw_candidate_list_size_for_search", ef),))
    with_half = SearchRequest(where=HALF, settings=request.settings)
    few = queries[: max(len(queries) // 5, 1)]
    with Searcher(settings) as searcher:
        calls: dict[str, Callable[[Vectors], object]] = {
            "the statement alone": lambda vector: _statement(searcher, request, vector),
            "an open Searcher": lambda vector: searcher.answer([Query(vector=vector)], request),
            "with a condition that half of the rows meet": lambda vector: searcher.answer(
                [Query(vector=vector)], with_half
            ),
        }
        walls, cpus = _in_turns(calls, few, runs)
        one_by_one, batched = [], []
        for _ in range(runs):
            one_by_one.append(_rate(calls["an open Searcher"], queries))
            batched.append(searcher.answer_many([Query(vector=one) for one in queries], request).rate)
            report.say(f"one by one: {one_by_one[-1]:.0f} per second; together: {batched[-1]:.0f} per second")
    rows = [["", "p50 ms", "CPU ms"]]
    rows += [[name, Spread.of(walls[name]).text(".2f"), Spread.of(cpus[name]).text(".2f")] for name in calls]
    report.table("a search", rows)
    statement, held, half = (walls[name] for name in calls)
    report.figure("an open Searcher / its statement alone", _ratios(held, statement), sign="≤", goal=1.15, form=".2f")
    report.figure("a search with a condition / without", _ratios(half, held), sign="≤", goal=2, form=".2f")
    report.figure("queries one by one", one_by_one, "per second", form=".0f")
    report.figure("queries together", batched, "per second", form=".0f")
    report.figure("rate of queries together / one by one", _ratios(batched, one_by_one), goal=3, form=".2f")


def _statement(searcher: Searcher, request: SearchRequest, vector: Vectors) -> object:
    with searcher.connection() as db:
        statement = search_statement(db, request, checked_vector(vector, db.settings.dataset.dimension))
        return db.rows(statement.sql, settings=statement.settings, text_as_bytes=True)


def _in_turns(
    calls: dict[str, Callable[[Vectors], object]], queries: Vectors, runs: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Median wall and CPU milliseconds of each call in each round."""
    walls: dict[str, list[float]] = {name: [] for name in calls}
    cpus: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for vector in queries:
            for name, call in calls.items():
                wall, cpu = time.perf_counter(), time.process_time()
                call(vector)
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        for name, each in taken.items():
            wall_p50, cpu_p50 = (1000 * np.median(np.array(each), axis=0)).tolist()
            walls[name].append(wall_p50)
            cpus[name].append(cpu_p50)
    return walls, cpus


def _rate(call: Callable[[Vectors], object], queries: Vectors) -> float:
    started = time.perf_counter()
    for vector in queries:
        call(vector)
    return len(queries) / (time.perf_counter() - started)


def _ratios(over: list[float], under: list[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


if __name__ == "__main__":
    main()
