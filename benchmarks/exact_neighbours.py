"""Benchmark: exact neighbours of many queries, by blocks of the table, by single queries, and by one statement."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.alone import GrowingReport, parser, reported
from benchmarks.harness import Spread
from benchmarks.report import Section
from benchmarks.search_data import sample_table
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.exact import TrueNeighbours, nearest_by_blocks
from laion_assets.recall.queries import OVERSAMPLE, QuerySet, like_sets
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.table.database import Database
from laion_assets.table.vectors import Ids, draw_rows

K = 10
GOAL = 5.0

ABOUT = """\
The 10 nearest of {rows:,} sample rows (512 dimensions, one part, in the page cache) to {queries:,} random images of the
same table, without the query's own row. *Blocks*: `recall.exact`, all queries, every row read once. *Single queries*:
`search` with exact, timed on {singles} queries and scaled to {queries:,} in proportion. *One statement*: one SELECT
that ranks for {statement} queries at once, scaled in the same way. The ways take turns, and a ratio compares two ways
of the same round. Times are wall seconds within one process."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks exact_neighbours`."""
    options = parser(__doc__, "exact_neighbours")
    options.add_argument("--rows", type=int, default=500_000)
    options.add_argument("--queries", type=int, default=1_000)
    options.add_argument("--singles", type=int, default=50, help="single queries that are timed")
    options.add_argument("--statement", type=int, default=20, help="queries in one statement")
    options.add_argument("--runs", type=int, default=3, help="rounds")
    given = options.parse_args(arguments)
    about = ABOUT.format(**vars(given))
    with (
        reported("exact_neighbours", about, given) as report,
        sample_table(report.scratch, given.rows, IndexParameters(), report.say) as db,
    ):
        queries = like_sets(db, draw_rows(db, OVERSAMPLE * given.queries, 0), given.queries, 0)[0]
        if len(queries) < given.queries:
            report.note(
                f"The random rows have only {len(queries):,} different vectors, so there are only so many queries."
            )
        _compare(report, db, queries, given.singles, given.statement, given.runs)
    return report.section


def _compare(report: GrowingReport, db: Database, queries: QuerySet, singles: int, statement: int, runs: int) -> None:
    """Runs all rounds. The report is written after each round."""
    answers: dict[str, Ids] = {}
    ways: dict[str, tuple[int, Callable[[], Ids]]] = {
        "blocks": (len(queries), lambda: _by_blocks(db, queries).ids),
        "single queries": (singles, lambda: _by_singles(db, queries, singles)),
        "one statement": (statement, lambda: _by_statement(db, queries, statement)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    _by_singles(db, queries, 3)  # reads the column into the page cache
    for number in range(runs):
        names = list(ways)
        for name in names[number % 3 :] + names[: number % 3]:
            asked, way = ways[name]
            asked = min(asked, len(queries))
            started = time.perf_counter()
            answers[name] = way()
            took = time.perf_counter() - started
            seconds[name].append(took / asked * len(queries))
            report.say(f"round {number + 1} of {runs}, {name}: {asked:,} queries in {took:.1f} s")
        _tell(report, seconds, len(queries))
    report.raw("seconds", {name: list(values) for name, values in seconds.items()})
    _tell_agreement(report, answers)


def _tell(report: GrowingReport, seconds: dict[str, list[float]], queries: int) -> None:
    rows = [["way", f"s for {queries:,} queries", "ms a query"]]
    for name, values in seconds.items():
        rows.append([name, Spread.of(values).text(), Spread.of([1000 * one / queries for one in values]).text()])
    report.section.figures.clear()
    for name in ("single queries", "one statement"):
        ratios = [other / ours for other, ours in zip(seconds[name], seconds["blocks"], strict=True)]
        goal = GOAL if name == "single queries" else None
        report.figure(f"times faster than {name}", ratios, sign="≥", goal=goal, form=".1f")
    report.table("Seconds", rows)


def _tell_agreement(report: GrowingReport, answers: dict[str, Ids]) -> None:
    """Reports the share of the neighbours that the other ways found too. Rows with equal vectors may replace each
    other."""
    for name in ("single queries", "one statement"):
        pairs = zip(answers[name].tolist(), answers["blocks"].tolist(), strict=False)  # the others ask fewer
        same = [len(set(a) & set(b)) / K for a, b in pairs]
        report.figure(f"share of neighbours by id that {name} found too (ties may differ)", float(np.mean(same)))


def _by_blocks(db: Database, queries: QuerySet) -> TrueNeighbours:
    return nearest_by_blocks(db, "image", queries.vectors, queries.ids, K)


def _by_singles(db: Database, queries: QuerySet, count: int) -> Ids:
    request = SearchRequest(limit=K + 1, exact=True)
    found = [[one.id for one in search(db, vector, request).neighbours] for vector in queries.vectors[:count]]
    return _without_own(found, queries)


def _by_statement(db: Database, queries: QuerySet, count: int) -> Ids:
    """One statement with an aggregate for each query, so that the vectors are read once."""
    count = min(count, len(queries))
    ranked = ", ".join(
        f"arrayMap(pair -> pair.2, groupArraySorted({K + 1})((cosineDistance(image_embedding, "
        f"{{t{number}:Array(Float32)}}), id)))"
        for number in range(count)
    )
    parameters = {f"t{number}": queries.vectors[number].tolist() for number in range(count)}
    row = db.one(f"SELECT {ranked} FROM {db.table}", parameters=parameters, settings={"use_skip_indexes": 0})
    return _without_own([list(map(int, ids)) for ids in row], queries)


def _without_own(found: list[list[int]], queries: QuerySet) -> Ids:
    own = queries.ids[: len(found)].tolist()
    kept = [[one for one in ids if one != excluded][:K] for ids, excluded in zip(found, own, strict=True)]
    return np.array(kept, dtype=np.int64)


if __name__ == "__main__":
    main()
