"""Benchmark: time and memory of merge and load for a shard as large as LAION's, and their growth with rows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Bench, Command, Peer, Round, Spread, Value, compare, ratio, spread, wall
from benchmarks.ingest import inspection
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table
from benchmarks.shards import SampleShard, sample_shard

LARGE, SMALL = 1_000_448, 100_000
QUICK_LARGE, QUICK_SMALL = 50_000, 5_000
STEPS = ("merge", "load")

ABOUT = """\
Merge and load, each in a separate process, of a sample shard of {large:,} rows ({raw:.1f} GB raw) and of a shard of
{small:,} rows. If memory does not grow with the rows of a shard, its ratio is 1."""


def _peer(shard: SampleShard) -> Peer:
    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        return {step: python("benchmarks.ours", step, folder) for step in STEPS}

    return Peer(f"{shard.rows:,} rows", prepare, shard.paths, inspection)


def step_peak(step: str) -> Value:
    """Peak anonymous memory of one step, in GB."""
    return lambda one: one.stages[step].peak_bytes / 1e9


def run(bench: Bench) -> Section:
    """Runs the benchmark."""
    small = sample_shard(bench.scratch, bench.rows(SMALL, QUICK_SMALL))
    large = sample_shard(bench.scratch, bench.rows(LARGE, QUICK_LARGE))
    peers = [_peer(small), _peer(large)]
    little, much = (peer.name for peer in peers)
    rounds = compare(bench, peers)

    def rate(one: Round) -> float:
        return large.rows / one.wall

    figures = [Figure(f"merge and load of {much}", spread(rounds, much, wall), "s", goal=40, form=".1f")]
    for step in STEPS:
        memory = spread(rounds, much, step_peak(step))
        growth = ratio(rounds, much, little, step_peak(step))
        figures.append(Figure(f"peak memory of the {step}, {much}", memory, "GB", goal=1.5))
        figures.append(Figure(f"peak memory of the {step}, {much} / {little}", growth, goal=1.1))
    figures.append(Figure("rows per second, merge and load", spread(rounds, much, rate), form=",.0f"))
    load = {"Seconds of the load, by its own clock": _load_stages(rounds[much])}
    about = ABOUT.format(large=large.rows, raw=large.raw_bytes / 1e9, small=small.rows)
    return Section("ingest_million", about, figures, {"Time and memory": stages_table(rounds), **load}, rounds)


def _load_stages(runs: list[Round]) -> list[list[str]]:
    """The seconds of each stage of the load."""
    seconds: list[dict[str, float]] = [one.stages["load"].result["load_seconds"] for one in runs]
    names = list(seconds[0])
    return [names, [Spread.of([one[name] for one in seconds]).text() for name in names]]
