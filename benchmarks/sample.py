"""Benchmark: the rows per second that `laion-assets sample` makes. It does not measure the content of a sample."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Bench, Command, Peer, Round, compare, peak, spread
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table

ROWS, QUICK_ROWS = 200_000, 20_000

ABOUT = """\
`laion-assets sample DIR --shards 1 --rows {rows}`, the whole command: the start, making the meanings that captions and
vectors share, and writing three files."""


def run(bench: Bench) -> Section:
    """Runs the benchmark."""
    rows = bench.rows(ROWS, QUICK_ROWS)

    def prepare(folder: Path) -> dict[str, Command]:
        command = python("laion_assets.cli", "sample", folder / "sample", "--shards", 1, "--rows", rows)
        return {"laion-assets sample": command}

    def rate(one: Round) -> float:
        return rows / one.wall

    peer = Peer("sample maker", prepare)
    rounds = compare(bench, [peer])
    figures = [
        Figure("rows per second", spread(rounds, peer.name, rate), sign="≥", goal=20_000, form=",.0f"),
        Figure("peak memory", spread(rounds, peer.name, lambda one: peak(one) / 1e6), "MB", form=".0f"),
    ]
    return Section("sample", ABOUT.format(rows=rows), figures, {"Time and memory": stages_table(rounds)}, rounds)
