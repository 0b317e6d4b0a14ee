"""Benchmark: core-seconds to build an index by ClickHouse, compared with the usearch library, on the same rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from benchmarks.alone import GrowingReport, index_parameters, parser, reported
from benchmarks.harness import Bench, Command, Peer, Rounds, Spread, compare, figure, inside, ratio, spread
from benchmarks.process import python
from benchmarks.report import Section
from benchmarks.search_data import SHARD
from laion_assets.index.parameters import IndexParameters
from laion_assets.sample.shards import write_sample_shard

ENGINE, LIBRARY = "ClickHouse", "usearch"
GOAL = 1.15

ABOUT = """\
One column of {rows:,} sample vectors (512 dimensions), with the same parameters. *ClickHouse*: `build_indexes` on a
table of one part, with everything that it does (a scan for bad vectors, the mutation, waiting for it). *usearch*: its
Python package, `Index.add` with as many threads as there are cores, connectivity = M, expansion_add = ef_construction.
Core-seconds are the process's CPU time during the build alone, without loading, start and imports. The peers take
turns, and a ratio compares two runs of the same round."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks index_build`."""
    options = parser(__doc__, "index_build")
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--runs", type=int, default=3, help="rounds")
    options.add_argument(
        "--parameters", type=index_parameters, nargs="+", default=[IndexParameters(), IndexParameters("bf16", 16, 64)]
    )
    given = options.parse_args(arguments)
    if importlib.util.find_spec("usearch") is None:
        options.error("usearch is not installed: uv pip install usearch")
    with reported("index_build", ABOUT.format(rows=given.rows), given) as report:
        report.say(f"making {given.rows:,} sample vectors")
        vectors, *others = write_sample_shard(report.scratch, SHARD, given.rows)
        for path in others:
            path.unlink()
        for parameters in given.parameters:
            _measure(report, vectors, parameters, given.runs)
    return report.section


def _measure(report: GrowingReport, vectors: Path, parameters: IndexParameters, runs: int) -> None:
    """Runs all rounds with one set of parameters. The report is written after each round."""
    text = f"{parameters.quantization},{parameters.m},{parameters.ef_construction}"

    def engine(folder: Path) -> dict[str, Command]:
        return {"build": python("benchmarks.index_engine", vectors, folder, text)}

    def library(_folder: Path) -> dict[str, Command]:
        return {"build": python("benchmarks.index_library", vectors, text)}

    peers = [Peer(ENGINE, engine, [vectors]), Peer(LIBRARY, library, [vectors])]
    all_rounds: Rounds = {ENGINE: [], LIBRARY: []}
    before = list(report.section.figures)
    for number in range(runs):
        report.say(f"{parameters}: round {number + 1} of {runs}")
        for name, done in compare(Bench(1, False, report.scratch), peers[:: 1 if number % 2 == 0 else -1]).items():
            all_rounds[name] += done
            report.section.rounds.setdefault(f"{name}, {parameters}", []).extend(done)
        report.section.figures[:] = before
        ratios = ratio(all_rounds, ENGINE, LIBRARY, figure("core_seconds"))
        report.figure(
            f"{parameters}: core-seconds / usearch's", [ratios.low, ratios.median, ratios.high], sign="≤", goal=GOAL
        )
        report.table(f"{parameters}", _rows(all_rounds))


def _rows(rounds: Rounds) -> list[list[str]]:
    rows = [["", "core-seconds", "wall s of the build", "bytes per vector", "peak anonymous MB of the process"]]
    for name in rounds:
        peak = Spread.of([one.peak_bytes / 1e6 for one in rounds[name]])
        cores = spread(rounds, name, figure("core_seconds")).text()
        size = spread(rounds, name, figure("bytes_a_vector")).text(".0f")
        rows.append([name, cores, spread(rounds, name, inside).text(), size, peak.text(".0f")])
    return rows


if __name__ == "__main__":
    main()
