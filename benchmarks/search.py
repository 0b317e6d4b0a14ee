"""Benchmark: search at equal recall on the same vectors: ours by SQL, libraries, and databases, in one process."""

from __future__ import annotations

import argparse
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.harness import Spread
from benchmarks.real_vectors import AbsentError
from benchmarks.report import Section, installed
from benchmarks.search_databases import DuckDB, LanceDB
from benchmarks.search_engines import (
    EF,
    Engine,
    Faiss,
    Floats,
    Hnswlib,
    K,
    Ours,
    Searcher,
    Setting,
    Usearch,
    autofaiss_key,
)
from benchmarks.search_truth import QueriedVectors, real_vectors, sample_vectors
from laion_assets.index.parameters import IndexParameters

TARGETS = (0.95, 0.99)
OURS, USEARCH = "ours, SQL", "usearch"
EF_OF_RECALL = ((16,), (64,), (256,))

ABOUT = """\
Every index has the same unit vectors. There are {queries} queries per kind, which are not in the index, with k = {k}.
Everything runs in one process, with every index in memory. *{ours}* is the project's `search` on a table of one part:
SQL in the embedded engine, which returns caption, url, id, NSFW and shard of each answer. LanceDB and DuckDB return id,
url and caption. Libraries return row numbers.
The parameters are {parameters} for every index that has such parameters. usearch and ours keep vectors as
{quantization}; hnswlib, faiss's HNSW and DuckDB keep them as float32. Recall@10 compares distances with those of the
exact neighbours in float64, so that ties count as found. *At equal recall*: for each kind, each index is used with the
cheapest of its settings (by CPU time per query) that reach the recall, in {runs} rounds in turns. A ratio compares the
medians of one round. Core-seconds are the CPU time of the index's build alone. Bytes per vector are those of the whole
index with the vectors that it keeps. LanceDB, DuckDB and ours also have the vectors in their tables, and read them for
rescoring (*refine*)."""


@dataclass
class _Tried:
    """One engine's setting for one kind: its recall and its CPU seconds per query, which vary least on a busy
    machine."""

    recall: float
    seconds: float


Tries = dict[tuple[str, str, Setting], _Tried]
"""What was measured, by engine, kind and setting."""


@dataclass
class _Timed:
    """The results of the rounds at one setting: CPU milliseconds per query, p50 and p99 in milliseconds, and queries
    per second by number of threads."""

    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=lambda: {1: [], 2: []})


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks search`."""
    options = parser(__doc__, "search")
    options.add_argument("--rows", type=int, default=200_000, help="sample vectors; 0 for none")
    options.add_argument("--queries", type=int, default=100, help="of each kind")
    options.add_argument("--recall-queries", type=int, default=2_000, help="of each kind, for recall at the same ef")
    options.add_argument("--runs", type=int, default=5, help="rounds")
    options.add_argument("--parameters", type=index_parameters, default=IndexParameters(), help="of every HNSW")
    options.add_argument("--real", nargs="*", choices=("glove", "minilm"), default=[], help="real vectors, too")
    options.add_argument("--captions", type=Path, help="Parquet file with a column TEXT or caption, for MiniLM")
    options.add_argument("--without", nargs="*", default=[], help="engines to leave out, by their names in the report")
    given = options.parse_args(arguments)
    about = ABOUT.format(
        ours=OURS, k=K, queries=given.queries, runs=given.runs, parameters=given.parameters,
        quantization=given.parameters.quantization,
    )  # fmt: skip
    with reported("search", about, given) as report:
        if given.rows:
            asked = max(given.queries, given.recall_queries)
            _measure(report, sample_vectors(report.scratch / "sample", given.rows, asked), given)
        for name in given.real:
            try:
                _measure(report, real_vectors(name, given.captions, max(given.queries, given.recall_queries)), given)
            except AbsentError as error:
                report.note(f"{name}: left out, {error}.")
    return report.section


def _engines(parameters: IndexParameters, rows: int, dimension: int) -> list[Engine]:
    """All engines that are compared."""
    rescored = [(ef, multiplier) for ef, multiplier in ((64, 5), (256, 5), (256, 20), (256, 90))]
    hnsw = f"HNSW{parameters.m}"
    lists = [(lists,) for lists in (4, 16, 64, 256)]
    return [
        Ours(OURS, ("ef", "rescoring ×"), [*((ef, 0) for (ef,) in EF), *rescored], parameters=parameters),
        Usearch(USEARCH, ("ef",), EF, "usearch", parameters=parameters),
        Hnswlib("hnswlib", ("ef",), EF, "hnswlib", parameters=parameters),
        Faiss("faiss, HNSW", ("ef",), EF, "faiss", key=hnsw, ef_construction=parameters.ef_construction),
        Faiss("faiss, IVF-PQ", ("lists",), lists, "faiss", key=autofaiss_key(rows, dimension)),
        LanceDB(
            "LanceDB, IVF-PQ", ("lists", "refine ×"), [(10, 0), (10, 10), (40, 10), (40, 40), (160, 40)], "lancedb",
        ),
        LanceDB(
            "LanceDB, HNSW", ("ef", "refine ×"), [(64, 0), (64, 5), (256, 5), (512, 5), (512, 20)], "lancedb",
            index="IVF_HNSW_SQ", parameters=parameters,
        ),
        DuckDB("DuckDB, HNSW", ("ef",), EF, "duckdb_extension_vss", parameters=parameters),
    ]  # fmt: skip


def _measure(report: GrowingReport, data: QueriedVectors, given: argparse.Namespace) -> None:
    """Builds every index, tries every setting, and times the settings that reach a target in turns."""
    engines = []
    with ExitStack() as stack:
        for engine in _engines(given.parameters, *data.vectors.shape):
            if engine.package and not installed(engine.package):
                report.note(f"{engine.name} is left out: {engine.package} is not installed (make bench installs it).")
            elif engine.name not in given.without:
                stack.callback(engine.close)
                report.say(f"{engine.name}: building")
                engine.build(data.vectors, report.scratch, report.say)
                report.say(
                    f"{engine.name}: {engine.core_seconds:.0f} core-s, {engine.bytes_a_vector:,.0f} bytes per vector"
                )
                engines.append(engine)
        _recall_at_same_ef(report, {engine.name: engine for engine in engines}, data)
        data = data.first(given.queries)
        tries = _sweep(report, engines, data)
        report.table(f"{data.name}: every setting", _sweep_table(engines, data, tries))
        _equal_recall(report, engines, data, tries, given.runs)


def _sweep(report: GrowingReport, engines: list[Engine], data: QueriedVectors) -> Tries:
    """The recall and time of every engine at every setting. One query before is not counted."""
    tries: Tries = {}
    for engine in engines:
        for setting in engine.grid:
            with engine.searcher(setting) as search:
                for kind, queries in data.queries.items():
                    search(queries[0])
                    started = time.process_time()
                    found, _ = _asked(search, queries)
                    seconds = (time.process_time() - started) / len(queries)
                    tries[engine.name, kind, setting] = _Tried(data.recall(kind, found), seconds)
        best = max(tries[engine.name, kind, setting].recall for kind in data.queries for setting in engine.grid)
        report.say(f"{engine.name}: recall@10 up to {best:.3f}")
    return tries


def _asked(search: Searcher, queries: Floats) -> tuple[list[list[int]], list[float]]:
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        rows = search(query)
        seconds.append(time.perf_counter() - started)
        found.append(rows)
    return found, seconds


def _chosen(engine: Engine, kind: str, target: float, tries: Tries) -> Setting | None:
    """The setting that reaches the target with the least CPU time."""
    reach = [one for one in engine.grid if tries[engine.name, kind, one].recall >= target]
    return min(reach, key=lambda one: tries[engine.name, kind, one].seconds, default=None)


def _equal_recall(report: GrowingReport, engines: list[Engine], data: QueriedVectors, tries: Tries, runs: int) -> None:
    """Adds a table and figures for each kind and target."""
    for kind, queries in data.queries.items():
        for target in TARGETS:
            chosen = {engine.name: _chosen(engine, kind, target, tries) for engine in engines}
            there = [engine for engine in engines if chosen[engine.name] is not None]
            timed: dict[str, _Timed] = {engine.name: _Timed() for engine in there}
            for number in range(runs):
                turn = number % max(1, len(there))
                for engine in (*there[turn:], *there[:turn]):
                    setting = chosen[engine.name]
                    assert setting is not None
                    _time(engine, setting, queries, timed[engine.name])
            name = f"{data.name}, {kind}, recall@10 ≥ {target}"
            report.say(name)
            report.table(name, _table(engines, kind, chosen, tries, timed))
            _figures(report, f"{data.name}, {kind}, recall ≥ {target}", timed)


def _recall_at_same_ef(report: GrowingReport, engines: dict[str, Engine], data: QueriedVectors) -> None:
    """Adds the recall of ours and of usearch, which has the same graph. With a hundred queries, recall is exact only to
    a hundredth."""
    if not {OURS, USEARCH} <= engines.keys():
        return
    rows, gaps = [["", "ef", USEARCH, OURS]], []
    for kind, queries in data.queries.items():
        for (ef,) in EF_OF_RECALL:
            recalls = []
            for name, setting in ((USEARCH, (ef,)), (OURS, (ef, 0))):
                with engines[name].searcher(setting) as search:
                    recalls.append(data.recall(kind, _asked(search, queries)[0]))
            gaps.append(recalls[0] - recalls[1])
            rows.append([kind, str(ef), *(f"{recall:.4f}" for recall in recalls)])
    count = len(next(iter(data.queries.values())))
    report.table(f"{data.name}: recall@10 of {count:,} queries at the same ef", rows)
    report.figure(f"{data.name}: usearch's recall@10 - ours at the same ef, highest", max(gaps), sign="≤", goal=0.005)
    report.figure(
        f"{data.name}: usearch's recall@10 - ours at the same ef, mean",
        float(np.mean(gaps)),
        sign="≤",
        goal=0.005,
        form=".4f",
    )


def _time(engine: Engine, setting: Setting, queries: Floats, timed: _Timed) -> None:
    """One round: each query alone, then all queries by two threads."""
    with engine.searcher(setting) as search:
        search(queries[0])
        started = time.process_time()
        _, seconds = _asked(search, queries)
        timed.cpu.append((time.process_time() - started) / len(queries) * 1000)
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    timed.p50.append(float(p50))
    timed.p99.append(float(p99))
    timed.rates[1].append(len(queries) / sum(seconds))
    with ExitStack() as stack:
        searches = [stack.enter_context(engine.searcher(setting)) for _ in range(2)]
        threads = [threading.Thread(target=_asked, args=(search, queries)) for search in searches]
        for search in searches:
            search(queries[0])
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        timed.rates[2].append(2 * len(queries) / (time.perf_counter() - started))


def _figures(report: GrowingReport, name: str, timed: dict[str, _Timed]) -> None:
    """Adds our times compared with those of usearch and of LanceDB's faster index."""
    if OURS not in timed:
        return
    against = {USEARCH: 3} if USEARCH in timed else {}
    lance = [engine for engine in timed if engine.startswith("LanceDB")]
    if lance:
        against[min(lance, key=lambda engine: float(np.median(timed[engine].p50)))] = 1
    for engine, goal in against.items():
        for what, ours, theirs in (
            ("p50", timed[OURS].p50, timed[engine].p50),
            ("CPU time", timed[OURS].cpu, timed[engine].cpu),
        ):
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            report.figure(f"{name}: our {what} / {engine}'s", ratios, sign="≤", goal=goal, form=".2f")


HEAD = [
    "", "build, core-s", "bytes per vector", "at", "recall@10", "CPU ms per query", "p50 ms", "p99 ms",
    "queries/s", "queries/s, 2 threads",
]  # fmt: skip


def _table(
    engines: list[Engine], kind: str, chosen: dict[str, Setting | None], tries: Tries, timed: dict[str, _Timed]
) -> list[list[str]]:
    """A row for each engine. For an engine that does not reach the recall, the row shows its highest recall."""
    rows = [HEAD]
    for engine in engines:
        cells = [engine.name, f"{engine.core_seconds:,.0f}", f"{engine.bytes_a_vector:,.0f}"]
        setting = chosen[engine.name]
        if setting is None:
            best = max(engine.grid, key=lambda one: tries[engine.name, kind, one].recall)
            cells += [f"not reached ({engine.text(best)})", f"{tries[engine.name, kind, best].recall:.3f}", *[""] * 5]
        else:
            one = timed[engine.name]
            cells += [engine.text(setting), f"{tries[engine.name, kind, setting].recall:.3f}"]
            cells += [Spread.of(values).text() for values in (one.cpu, one.p50, one.p99)]
            cells += [Spread.of(one.rates[threads]).text(",.0f") for threads in (1, 2)]
        rows.append(cells)
    return rows


def _sweep_table(engines: list[Engine], data: QueriedVectors, tries: Tries) -> list[list[str]]:
    rows = [["", "at", *(f"{kind}: {what}" for kind in data.queries for what in ("recall@10", "CPU ms"))]]
    for engine in engines:
        for setting in engine.grid:
            found = [tries[engine.name, kind, setting] for kind in data.queries]
            cells = [cell for one in found for cell in (f"{one.recall:.3f}", f"{1000 * one.seconds:.2f}")]
            rows.append([engine.name, engine.text(setting), *cells])
    return rows


if __name__ == "__main__":
    main()
