"""Benchmark: one shard of 100,000 rows from raw files to table, ours against the field. How to run is the harness's."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import Bench, Command, Peer, Rounds, compare, cpu, figure, inside, peak, ratio, spread, wall
from benchmarks.process import python
from benchmarks.report import Figure, Section, stages_table
from benchmarks.shards import SHARD, SampleShard, sample_shard

ROWS, QUICK_ROWS = 100_000, 5_000
OURS, PAGE, PASTE = "ours", "the page's way", "PASTE JOIN"

ABOUT = """\
The same {rows:,} sample rows ({raw:.0f} MB raw) from two npy files and a metadata file to a ClickHouse table.
*ours*: merge to Parquet, then load it by way of a staging table, one part, all checks, in one process.
*the page's way*: its process.py (pandas, CSV), then `INSERT … FROM INFILE … FORMAT CSV` into the page's table; both
processes are counted. *PASTE JOIN*: the engine reads the npy files and the metadata side by side straight into a table
of our shape, `max_threads = 1`, without a Parquet file, one part, or any check. After each run the tables were held
against each other: the same rows, urls and vectors."""


def inspection(folder: Path) -> Command:
    """What the table holds."""
    return python("benchmarks.engine", folder)


def ours_peer(shard: SampleShard, name: str = OURS) -> Peer:
    """Merge and load in one process."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        return {"merge and load": python("benchmarks.ours", "both", folder)}

    return Peer(name, prepare, shard.paths, inspection)


def page_peer(shard: SampleShard) -> Peer:
    """The page's script, then its import."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder)
        return {step: python("benchmarks.page_way", step, folder, SHARD) for step in ("process", "import")}

    return Peer(PAGE, prepare, shard.paths, inspection)


def paste_peer(shard: SampleShard) -> Peer:
    """PASTE JOIN in the engine."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder)
        return {"paste join": python("benchmarks.paste_join", folder, SHARD)}

    return Peer(PASTE, prepare, shard.paths, inspection)


def run(bench: Bench) -> Section:
    """Runs it. Raises `RuntimeError` when the peers' tables differ."""
    shard = sample_shard(bench.scratch, bench.rows(ROWS, QUICK_ROWS))
    rounds = compare(bench, [ours_peer(shard), page_peer(shard), paste_peer(shard)])
    contents = {(one.outcome["rows"], one.outcome["content"]) for runs in rounds.values() for one in runs}
    if len(contents) != 1:
        raise RuntimeError(f"the peers did not load the same rows: {contents}")
    about = ABOUT.format(rows=shard.rows, raw=shard.raw_bytes / 1e6)
    tables = {"Time and memory": stages_table(rounds), "Disk": _sizes(rounds, shard)}
    return Section("ingest", about, _figures(rounds), tables, rounds)


def _figures(rounds: Rounds) -> list[Figure]:
    csv, merged, table = figure("csv_bytes"), figure("merged_bytes"), figure("table_bytes")
    return [
        Figure("times faster than the page's way", ratio(rounds, PAGE, OURS, wall), sign="≥", goal=15, form=".1f"),
        Figure("CPU seconds, of the page's way", ratio(rounds, OURS, PAGE, cpu), form=".3f"),
        Figure("memory, of the page's way", ratio(rounds, OURS, PAGE, peak), goal=1 / 3, form=".3f"),
        Figure("merged file, of the page's CSV", ratio(rounds, OURS, PAGE, merged, csv), goal=1 / 8, form=".3f"),
        Figure("part in the table, of the page's CSV", ratio(rounds, OURS, PAGE, table, csv), form=".3f"),
        Figure("times faster than PASTE JOIN (aim: 1.5)", ratio(rounds, PASTE, OURS, wall), sign="≥", goal=1),
        Figure("the same, without start and imports", ratio(rounds, PASTE, OURS, inside), sign="≥", goal=1),
        Figure("CPU seconds, of PASTE JOIN", ratio(rounds, OURS, PASTE, cpu)),
        Figure("memory, of PASTE JOIN", ratio(rounds, OURS, PASTE, peak)),
    ]


def _sizes(rounds: Rounds, shard: SampleShard) -> list[list[str]]:
    rows = [["", "bytes a row"], ["raw files", f"{shard.raw_bytes / shard.rows:,.0f}"]]
    for name, peer, size in (
        ("the page's CSV", PAGE, "csv_bytes"),
        ("our merged file", OURS, "merged_bytes"),
        ("our part in the table, vectors in CODEC(NONE)", OURS, "table_bytes"),
        ("the page's table", PAGE, "table_bytes"),
        ("PASTE JOIN's table", PASTE, "table_bytes"),
    ):
        rows.append([name, f"{spread(rounds, peer, figure(size)).median / shard.rows:,.0f}"])
    return rows
