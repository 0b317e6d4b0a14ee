"""Benchmark: what a search by index costs beyond the search of the graph itself, part by part.

It compares no other engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.harness import Spread
from benchmarks.report import Section
from benchmarks.search_data import vector_table
from benchmarks.search_engines import Usearch
from benchmarks.search_truth import sample_vectors
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import SearchSettings
from laion_assets.searching.statement import SearchRequest, search, search_statement
from laion_assets.table.database import Database
from laion_assets.table.schema import require_table
from laion_assets.table.vectors import Vectors, vector_sql

ABOUT = """\
One part of {rows:,} sample vectors, {parameters}, ef {ef}, no rescoring, k = 10. Each line is one statement or call
with a query vector. The lines take turns, {queries} times per round, for {runs} rounds. Figures are CPU milliseconds of
the process (all threads), since other programs on the machine change CPU time least. A figure is the median of a round
and the spread over the rounds. The difference between two lines is the cost of a step. There is no HTTP, since the
engine runs in the process."""

Call = Callable[[Vectors], object]


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks query_cost`."""
    options = parser(__doc__, "query_cost")
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--queries", type=int, default=50)
    options.add_argument("--runs", type=int, default=5, help="rounds")
    options.add_argument("--ef", type=int, default=64)
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters("bf16", 16, 64))
    given = options.parse_args(arguments)
    with reported("query_cost", ABOUT.format(**vars(given)), given) as report:
        data = sample_vectors(report.scratch / "sample", given.rows, given.queries)
        library = Usearch("usearch", ("ef",), [], parameters=given.parameters)
        library.build(data.vectors, report.scratch, report.say)
        with (
            library.searcher((given.ef,)) as alone,
            vector_table(report.scratch / "ours", "ours", data.vectors, given.parameters, report.say) as db,
        ):
            build_indexes(db, log=report.say)
            calls: dict[str, Call] = {"usearch, one query": alone, **_calls(db, given.ef)}
            _measure(report, calls, data.queries["image→image"], given.runs)
    return report.section


def _calls(db: Database, ef: int) -> dict[str, Call]:
    """The calls, from the least to the whole search."""
    request = SearchRequest(limit=10, settings=SearchSettings(ef).pairs())
    settings = search_statement(db, request, np.ones(db.settings.dataset.dimension, np.float32)).settings

    def asked(before: str = "", columns: str | None = None, **more: object) -> Call:
        def ask(vector: Vectors) -> object:
            sql = search_statement(db, request, vector).sql
            if columns is not None:
                given = sql
                sql = given.replace(", caption, url, shard, id, NSFW", columns)
                assert sql != given, f"the search must have the columns that this benchmark replaces: {sql}"
            return db.rows(before + sql, settings={**settings, **more}, text_as_bytes=True)

        return ask

    return {
        "SELECT 1": lambda _vector: db.rows("SELECT 1"),
        "SELECT 1, with the search's settings": lambda _vector: db.rows("SELECT 1", settings=settings),
        "the vector by its bytes: SELECT length(reinterpret(unhex('…'), 'Array(Float32)'))": lambda vector: db.rows(
            f"SELECT length({vector_sql(vector)})", settings=settings
        ),
        "the same, sent as a list: SELECT length({target:Array(Float32)})": lambda vector: db.rows(
            "SELECT length({target:Array(Float32)})", parameters={"target": vector.tolist()}, settings=settings
        ),
        "parse and analyse: EXPLAIN QUERY TREE of the search": asked("EXPLAIN QUERY TREE "),
        "and plan, with the graph searched: EXPLAIN": asked("EXPLAIN "),
        "the search, its distances only": asked(columns=""),
        "the search, with id": asked(columns=", id"),
        "the search, with all columns of an answer": asked(),
        "the same, columns read after the sort, as ClickHouse does by itself (lazy materialization)": asked(
            query_plan_optimize_lazy_materialization=1
        ),
        "the same, one thread": asked(max_threads=1),
        "the same, without a query log": asked(log_queries=0),
        "search() of the project, as its caller sees it": lambda vector: search(db, vector, request),
        "a check of the table's columns (an earlier version made it before every search)": lambda _v: require_table(db),
    }


def _measure(report: GrowingReport, calls: dict[str, Call], queries: Vectors, runs: int) -> None:
    medians: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(queries[0])
    for number in range(runs):
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for vector in queries:
            for name, call in calls.items():
                started = time.process_time()
                call(vector)
                seconds[name].append(time.process_time() - started)
        for name, values in seconds.items():
            medians[name].append(1000 * float(np.median(values)))
        report.say(f"round {number + 1} of {runs}")
    report.table(
        "CPU ms a query", [["", "CPU ms"], *([name, Spread.of(each).text(".3f")] for name, each in medians.items())]
    )
    ours, alone = (medians[name] for name in ("search() of the project, as its caller sees it", "usearch, one query"))
    report.figure("our search / the graph's alone", _ratios(ours, alone), sign="≤", goal=3, form=".1f")


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


if __name__ == "__main__":
    main()
