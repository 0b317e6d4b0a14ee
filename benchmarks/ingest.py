"""Benchmark: one shard from raw files to table, our way compared with other ways. harness.py runs the peers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Bench, Command, Peer, Rounds, Spread, compare, cpu, figure, peak, ratio, spread, wall
from benchmarks.process import python
from benchmarks.report import Figure, Section, installed, stages_table
from benchmarks.shards import SHARD, SampleShard, merged_file, sample_shard

ROWS, QUICK_ROWS = 100_000, 5_000
PAGE_ROWS = 100_000
"""The way of ClickHouse's page takes 45 kB of memory per row, so it gets at most this many rows. For more rows its
figures are scaled in proportion, and the report says so."""

OURS, PAGE, PASTE, FLOOR = "ours", "the page's way", "PASTE JOIN", "floor"
POLARS, PANDAS = "polars, insert_arrow", "pandas, insert_df"
DUCKDB, LANCEDB = "DuckDB", "LanceDB"

ABOUT = f"""\
The same {{rows:,}} sample rows ({{raw:.0f}} MB raw) from two npy files and a metadata file to a table.
*{OURS}*: merge to Parquet, then load through a staging table to one part, with all checks, in one process.
*{FLOOR}*: plain reads of the raw files, a plain copy of the merged file, and ClickHouse's insert of the same rows from
a merged file that is ready, without checks, in any number of parts.
*{PAGE}*: process.py of ClickHouse's page on LAION-400M (pandas, CSV), then `INSERT … FROM INFILE … FORMAT CSV` into the
page's table. Both processes are counted{{scaled}}.
*{PASTE}*: the engine reads the npy files and the metadata together and inserts them directly into a table like ours,
`max_threads = 1`, without a Parquet file, without checks, and without the merge to one part.
*{POLARS}* and *{PANDAS}*: everything is read into a frame, which ClickHouse's client inserts into a table like ours.
*{DUCKDB}* and *{LANCEDB}*: everything is read into numpy and one Arrow table, from which the database makes a table
without an index (our table has no index yet, either).
After each run the tables were compared: they have the same rows, urls and vectors."""


def inspection(folder: Path) -> Command:
    """The command that describes the content of the table."""
    return python("benchmarks.engine", folder)


def ours_peer(shard: SampleShard, name: str = OURS) -> Peer:
    """Our way: merge and load in one process."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        return {"merge and load": python("benchmarks.ours", "both", folder)}

    return Peer(name, prepare, shard.paths, inspection)


def floor_peer(shard: SampleShard, ready: Path) -> Peer:
    """The floor: the least work that a shard needs on this machine, plain copies and then an insert."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder / "raw")
        copying = python("benchmarks.floor", "copies", folder / "raw", ready, folder / "copy")
        return {"plain copies": copying, "unchecked insert": python("benchmarks.floor", "insert", folder, ready)}

    return Peer(FLOOR, prepare, (*shard.paths, ready), inspection)


def _raw_peer(
    name: str, shard: SampleShard, commands: Callable[[Path], dict[str, Command]], inspect: Callable[[Path], Command]
) -> Peer:
    """A peer that finds the three raw files in its folder."""

    def prepare(folder: Path) -> dict[str, Command]:
        shard.link_into(folder)
        return commands(folder)

    return Peer(name, prepare, shard.paths, inspect)


def _page_commands(folder: Path) -> dict[str, Command]:
    return {step: python("benchmarks.page_way", step, folder, SHARD) for step in ("process", "import")}


def _peers(shard: SampleShard, page_shard: SampleShard, ready: Path) -> list[Peer]:
    """All peers whose packages are installed."""

    def one(module: str, *way: str) -> Callable[[Path], dict[str, Command]]:
        return lambda folder: {"load": python(f"benchmarks.{module}", *way, folder, SHARD)}

    def inspect(module: str) -> Callable[[Path], Command]:
        return lambda folder: python(f"benchmarks.{module}", "inspect", folder, SHARD)

    peers = [
        ours_peer(shard),
        floor_peer(shard, ready),
        _raw_peer(PAGE, page_shard, _page_commands, inspection),
        _raw_peer(PASTE, shard, one("paste_join"), inspection),
        _raw_peer(POLARS, shard, one("client_way", "arrow"), inspection),
        _raw_peer(PANDAS, shard, one("client_way", "pandas"), inspection),
    ]
    if installed("duckdb"):
        peers.append(_raw_peer(DUCKDB, shard, one("duckdb_way", "load"), inspect("duckdb_way")))
    if installed("lancedb"):
        peers.append(_raw_peer(LANCEDB, shard, one("lance_way", "load"), inspect("lance_way")))
    return peers


def run(bench: Bench) -> Section:
    """Runs the benchmark. Raises `RuntimeError` when the peers' tables differ."""
    shard = sample_shard(bench.scratch, bench.rows(ROWS, QUICK_ROWS))
    page_shard = sample_shard(bench.scratch, min(shard.rows, PAGE_ROWS))
    peers = _peers(shard, page_shard, merged_file(bench.scratch, shard.rows))
    rounds = compare(bench, [peer for peer in peers if peer.name not in set(bench.without) - {OURS, FLOOR}])
    _require_equal(rounds, shard.rows)
    scale = shard.rows / page_shard.rows
    scaled = f"; measured on {page_shard.rows:,} rows and scaled to {shard.rows:,}" if scale > 1 else ""
    about = ABOUT.format(rows=shard.rows, raw=shard.raw_bytes / 1e6, scaled=scaled)
    absent = [name for name in (PAGE, PASTE, POLARS, PANDAS, DUCKDB, LANCEDB) if name not in rounds]
    if absent:
        about += f"\nLeft out, not installed or not wanted: {', '.join(absent)}."
    tables = {
        "Peers": _summary(rounds, shard.rows, scale),
        "Files between": _sizes(rounds, shard, scale),
        "Time and memory, stage by stage": stages_table(rounds),
    }
    return Section("ingest", about, _figures(rounds, scale), tables, rounds)


def _require_equal(rounds: Rounds, rows: int) -> None:
    """Requires that all databases have the same sums, and that all tables in ClickHouse have the same hash."""
    for fact in ("checksum", "content"):
        found = {
            (one.outcome["rows"], one.outcome[fact])
            for runs in rounds.values()
            for one in runs
            if fact in one.outcome and one.outcome["rows"] == rows
        }
        if len(found) != 1:
            raise RuntimeError(f"the peers must load the same rows, but their sums differ: {found}")
    short = {name for name, runs in rounds.items() if any(one.outcome["rows"] != rows for one in runs)}
    if short - {PAGE}:
        raise RuntimeError(f"{', '.join(sorted(short))} did not load {rows:,} rows")


def _figures(rounds: Rounds, scale: float) -> list[Figure]:
    """The figures that have goals, then our time compared with each peer's."""
    figures = [
        Figure("our time / the floor's", ratio(rounds, OURS, FLOOR, wall), goal=2.5),
        Figure("our CPU time / the floor's", ratio(rounds, OURS, FLOOR, cpu)),
        Figure("our peak memory / the 41 GB that the page names", _spread_of(rounds, 41e9), goal=1 / 25, form=".3f"),
    ]
    for name in rounds:
        if name in (OURS, FLOOR):
            continue
        times, goal = (scale, 20) if name == PAGE else (1.0, 1)
        for what, value in (("times faster than", wall), ("times less CPU time than", cpu)):
            better = _scaled(ratio(rounds, name, OURS, value), times)
            figures.append(Figure(f"{what} {name}", better, sign="≥", goal=goal if value is wall else None))
    return figures


def _spread_of(rounds: Rounds, size: float) -> Spread:
    return spread(rounds, OURS, lambda one: peak(one) / size)


def _scaled(value: Spread, factor: float) -> Spread:
    return Spread(value.median * factor, value.low * factor, value.high * factor)


def _summary(rounds: Rounds, rows: int, scale: float) -> list[list[str]]:
    """A row for each peer. Ratios compare the peer with ours, round by round."""
    head = [
        "",
        "wall s",
        "CPU s",
        "peak memory, GB",
        "bytes per row on disk",
        "its time / ours",
        "its CPU time / ours",
        "its memory / ours",
    ]
    table = [head]
    for name in rounds:
        factor = scale if name == PAGE else 1.0
        cells = [_scaled(spread(rounds, name, value), factor).text() for value in (wall, cpu)]
        cells.append(_scaled(spread(rounds, name, peak), factor / 1e9).text())
        cells.append(f"{spread(rounds, name, figure('table_bytes')).median * factor / rows:,.0f}")
        cells += [_scaled(ratio(rounds, name, OURS, value), factor).text() for value in (wall, cpu, peak)]
        table.append([f"**{name}**" if name == OURS else name, *cells])
    return table


def _sizes(rounds: Rounds, shard: SampleShard, scale: float) -> list[list[str]]:
    """The sizes of the raw files and of the files that a way leaves beside its table."""
    rows = [["", "bytes per row"], ["raw files", f"{shard.raw_bytes / shard.rows:,.0f}"]]
    for name, peer, size, factor in (
        ("the page's CSV", PAGE, "csv_bytes", scale),
        ("our merged file", OURS, "merged_bytes", 1.0),
    ):
        if peer in rounds:
            rows.append([name, f"{spread(rounds, peer, figure(size)).median * factor / shard.rows:,.0f}"])
    return rows
