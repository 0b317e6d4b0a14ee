"""Benchmark: what our code adds to a first search in a new process, and what encode_text in SQL adds to the model."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from fastembed import TextEmbedding

from benchmarks.alone import GrowingReport, parser, reported
from benchmarks.harness import Bench, Command, Peer, Rounds, compare
from benchmarks.process import measure
from benchmarks.report import Section, stages_table
from laion_assets.clip.encoder import TEXT_CLASS
from laion_assets.clip.ready import ready_model
from laion_assets.clip.udf import install_embedded
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition

SHARD = 0
QUERY = "a red dog"
SEARCH, BY_HAND, IMPORTS = "first search", "same search by hand", "engine and model alone"

ABOUT = """\
The sample's encoders and a table of {texts:,} sample rows without index. *Cold* measures whole processes. One run of
each is not counted, so that modules are compiled and files are in the page cache. *first search* is
`laion_assets.search` with a text. *engine and model alone* imports clickhouse-connect, chdb and fastembed and encodes
the text. *same search by hand* also sends the exact search as SQL and puts the answer into a polars frame. *Warm call*
compares `SELECT encode_text(…)` in the embedded engine, whose worker is already running, with fastembed in this process
and with `SELECT 1`. Each round has the median of {calls} calls. *Texts* compares `encode_text` over the table's
captions with `TextEmbedding.embed` of the same captions. Peers take turns, and a ratio or a difference is of two runs
of the same round."""

SEARCH_CODE = """\
import sys
from pathlib import Path
from laion_assets.api import search
from laion_assets.settings import load_settings
found = search(sys.argv[1], settings=load_settings(dataset_name="sample", data_dir=Path(sys.argv[2])))
assert len(found) == 10, found
"""

IMPORTS_CODE = """\
import sys
import chdb, clickhouse_connect
from fastembed import TextEmbedding
text, store, name, folder, table = sys.argv[1:]
model = TextEmbedding(name, specific_model_path=folder, cache_dir=folder)
vector = next(iter(model.embed([text]))).tolist()
"""

BY_HAND_CODE = f"""\
{IMPORTS_CODE}
import polars
client = clickhouse_connect.get_client(interface="chdb", path=store + "/clickhouse")
found = client.query(
    "SELECT cosineDistance(image_embedding, {{target:Array(Float32)}}) AS distance, caption, url, shard, id, NSFW "
    f"FROM {{table}} ORDER BY distance LIMIT 10",
    parameters={{"target": vector}},
)
assert len(polars.DataFrame(found.result_rows, orient="row")) == 10
"""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks clip_functions`."""
    options = parser(__doc__, "clip_functions")
    options.add_argument("--texts", type=int, default=10_000, help="rows of the table")
    options.add_argument("--runs", type=int, default=9, help="rounds of each part")
    options.add_argument("--calls", type=int, default=50, help="warm calls of each peer in a round")
    given = options.parse_args(arguments)
    with reported("clip_functions", ABOUT.format(texts=given.texts, calls=given.calls), given) as report:
        report.say(f"making a table of {given.texts:,} sample rows")
        settings = load_settings(dataset_name="sample", data_dir=report.scratch / "store")
        table = _load_sample(settings, given.texts)
        _cold(report, settings, table, given.runs)
        with connect(settings) as db:
            _warm(report, db, _model_alone(settings), given)
    return report.section


def _load_sample(settings: Settings, rows: int) -> str:
    """Makes a table of one partition, the encoders and their SQL functions. Returns the table's name."""
    store = ShardStore(settings.data_dir, settings.dataset)
    store.raw_folder.mkdir(parents=True)
    for path in write_sample_shard(settings.data_dir / "sample", SHARD, rows):
        path.replace(store.raw_folder / path.name)
    merged = merge_shard(store, SHARD, max_bad_fraction=settings.max_bad_fraction)
    install_embedded(settings)
    with connect(settings) as db:
        load_partition(db, merged)
        return db.table


def _cold(report: GrowingReport, settings: Settings, table: str, runs: int) -> None:
    """Measures whole processes. They open the embedded engine, so this process must not have it open."""
    store, model = str(settings.data_dir), str(ready_model(settings) / "text")
    arguments = [QUERY, store, TEXT_CLASS, model, table]
    commands: dict[str, Command] = {
        SEARCH: [sys.executable, "-c", SEARCH_CODE, QUERY, store],
        BY_HAND: [sys.executable, "-c", BY_HAND_CODE, *arguments],
        IMPORTS: [sys.executable, "-c", IMPORTS_CODE, *arguments],
    }
    report.say("cold: one uncounted run each")
    for command in commands.values():
        measure(command)
    rounds = compare(Bench(runs, False, report.scratch), [_peer(name, command) for name, command in commands.items()])
    report.section.rounds.update({f"cold: {name}": done for name, done in rounds.items()})
    for name, done in rounds.items():
        report.figure(f"cold: {name}", [one.wall for one in done], "s")
    for under in (IMPORTS, BY_HAND):
        report.figure(f"cold: {SEARCH} minus {under}", _differences(rounds, SEARCH, under), "s")
    report.table("Cold, whole processes", stages_table(rounds))


def _peer(name: str, command: Command) -> Peer:
    return Peer(name, lambda _folder: {"process": command})


def _differences(rounds: Rounds, over: str, under: str) -> list[float]:
    return [one.wall - other.wall for one, other in zip(rounds[over], rounds[under], strict=True)]


def _model_alone(settings: Settings) -> TextEmbedding:
    folder = str(ready_model(settings) / "text")
    return TextEmbedding(TEXT_CLASS, specific_model_path=folder, cache_dir=folder)


def _warm(report: GrowingReport, db: Database, model: TextEmbedding, given: argparse.Namespace) -> None:
    """Measures single calls and whole columns, with the engine open and its workers started."""
    report.say("warm: starting the workers")
    column = _sql(db, f"SELECT sum(encode_text(caption)[1]) FROM {db.table}")
    for _ in range(2):
        column()
    _calls(report, db, model, given)
    captions = [_text(caption) for (caption,) in db.rows(f"SELECT caption FROM {db.table} ORDER BY id")]
    report.say(f"warm: {len(captions):,} texts")
    rounds = _turns({"SQL": column, "fastembed": lambda: list(model.embed(captions))}, given.runs, _seconds)
    for name, seconds in rounds.items():
        report.figure(f"texts: {name}", [len(captions) / value for value in seconds], "texts/s", form=",.0f")
    pairs = zip(rounds["SQL"], rounds["fastembed"], strict=True)
    report.figure("texts: rate of SQL / rate of fastembed", [alone / sql for sql, alone in pairs])
    report.raw("texts, s", {"texts": len(captions), "different": len(set(captions)), "rounds": rounds})


def _calls(report: GrowingReport, db: Database, model: TextEmbedding, given: argparse.Namespace) -> None:
    """Measures one short text at a time, and `SELECT 1`, which is the cost of any query."""
    function, alone, nothing = "encode_text", "model", "SELECT 1"
    works: dict[str, Callable[[], object]] = {
        function: _sql(db, f"SELECT length(encode_text('{QUERY}'))"),
        alone: lambda: list(model.embed([QUERY])),
        nothing: _sql(db, nothing),
    }
    rounds = _turns(works, given.runs, lambda work: statistics.median(_seconds(work) for _ in range(given.calls)))
    for name, seconds in rounds.items():
        report.figure(f"warm call: {name}", [1e3 * value for value in seconds], "ms")
    each = list(zip(rounds[function], rounds[alone], rounds[nothing], strict=True))
    report.figure("warm call: encode_text minus the model", [1e3 * (sql - own) for sql, own, _ in each], "ms")
    over_both = [1e3 * (sql - own - query) for sql, own, query in each]
    report.figure("warm call: encode_text minus the model and SELECT 1", over_both, "ms")
    report.raw("warm calls, s", {"rounds": rounds})


def _text(value: object) -> str:
    """A caption, which is bytes if it is not UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _sql(db: Database, query: str) -> Callable[[], object]:
    return lambda: db.rows(query)


def _turns(
    works: dict[str, Callable[[], object]], runs: int, timed: Callable[[Callable[[], object]], float]
) -> dict[str, list[float]]:
    """Seconds of each piece of work, by round. Every other round runs them in reverse order."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(runs):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(timed(works[name]))
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
