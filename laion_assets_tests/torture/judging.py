"""Fetches, merges and loads damaged files, and judges the outcome: refused, as the files say, or wrong.

The product runs in a separate process, so that files that crash it are counted, too. Other modules damage the files.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from laion_assets.errors import LaionError
from laion_assets.settings import Settings, load_settings
from laion_assets.shard.inspect import inspect_shard
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets.source.fetch import fetch_shard
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.load import load_partition
from laion_assets.table.schema import partitions
from laion_assets_tests.torture.audit import table_rows
from laion_assets_tests.torture.truth import RawFiles, difference, true_rows

Outcome = Literal["refused", "as the files say", "wrong"]
SPAWN = multiprocessing.get_context("spawn")
LONGEST_SECONDS = 900


@dataclass(frozen=True)
class Verdict:
    """The outcome for one set of files, with the error's type and message for a refusal, or with what is wrong."""

    outcome: Outcome
    kind: str = ""
    said: str = ""


@dataclass(frozen=True)
class Court:
    """The folders in which cases are tried. `sound` has valid files of shard 0, which are loaded first.

    `source` has the files of the case. `dimension` is the dataset's. At most `max_bad_fraction` of a case's rows may be
    put into quarantine.
    """

    folder: Path
    dimension: int
    max_bad_fraction: float

    @property
    def sound(self) -> Path:
        """The folder of the valid files. Cases must not change them."""
        return self.folder / "sound"

    @property
    def source(self) -> Path:
        """The folder of the case: a copy of the valid files, to be damaged."""
        return self.folder / "source"

    def settings(self, source: Path, *, manifest: bool = False) -> Settings:
        """Settings to load shard 0 from a folder, optionally with the manifest of the valid files."""
        described = self.folder / "court.toml"
        return load_settings(
            dataset_name=str(described),
            source=(str(source),),
            data_dir=self.folder / "data",
            max_bad_fraction=self.max_bad_fraction,
            manifest=self.folder / "manifest" if manifest else None,
            http_tries=1,
        )

    def prepare(self) -> None:
        """Writes the dataset description, and a manifest with the SHA-256 of the valid files."""
        toml = f'name = "court"\nshards = 1\ndimension = {self.dimension}\n'
        (self.folder / "court.toml").write_text(toml, encoding="utf-8")
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in RawFiles.of(self.sound, 0).paths
        ]
        (self.folder / "manifest").write_text("\n".join(sums), encoding="utf-8")

    def reset(self) -> RawFiles:
        """Copies the valid files into the case's folder, to be damaged."""
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(self.sound, self.source)
        return RawFiles.of(self.source, 0)


class Judge:
    """Tries cases in a separate process, which is started again when a case crashes it."""

    def __init__(self, court: Court) -> None:
        self._court = court
        self._start()

    def _start(self) -> None:
        self._line, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(self._court, other), daemon=True)
        self._process.start()
        other.close()

    def try_case(self, *, manifest: bool = False, fetched: bool = True) -> Verdict:
        """Judges the files in `court.source`: fetched from there, or copied, as if they were damaged in the store."""
        try:
            self._line.send((manifest, fetched))
            if self._line.poll(LONGEST_SECONDS):
                verdict: Verdict = self._line.recv()
                return verdict
            said = f"no end after {LONGEST_SECONDS} s"
            self._process.kill()
        except (EOFError, OSError):
            said = "the process ended"
        self._process.join()
        said += f" ({self._process.exitcode})"
        self._start()
        return Verdict("wrong", "death", said)

    def close(self) -> None:
        """Ends the process that tries the cases."""
        self._process.kill()
        self._process.join()


@contextmanager
def judge(court: Court) -> Iterator[Judge]:
    """A judge whose process is ended at the end of the block."""
    court.prepare()
    judging = Judge(court)
    try:
        yield judging
    finally:
        judging.close()


def _work(court: Court, line: Connection) -> None:
    settings = court.settings(court.sound)
    with connect(settings) as db:
        expected = _take(court, settings, db)
        before = table_rows(db, 0)
        assert expected is None and before == true_rows(RawFiles.of(court.sound, 0), 0).rows
        while True:
            manifest, fetched = line.recv()
            line.send(_try(court, db, court.settings(court.source, manifest=manifest), fetched=fetched))
            if table_rows(db, 0) != before:
                _take(court, settings, db)


def _try(court: Court, db: Database, settings: Settings, *, fetched: bool) -> Verdict:
    before = table_rows(db, 0)
    try:
        refused = _take(court, settings, db, fetched=fetched)
    except Exception as error:
        return Verdict("wrong", type(error).__name__, f"an error that is none of ours: {error}"[:300])
    found, states = table_rows(db, 0), partitions(db)
    staged = [str(name) for (name,) in db.rows("SHOW TABLES") if name != db.settings.table]
    if staged or any(state.parts != 1 for state in states):
        return Verdict("wrong", "left", f"{staged} {states}")
    if refused is not None:
        return _judge_refusal(refused, changed=found != before)
    try:
        truth = true_rows(RawFiles.of(court.source, 0), 0)
    except Exception as error:
        return Verdict("wrong", "unreadable", f"loaded what numpy and pyarrow cannot read: {error}"[:300])
    wrong = difference(found, truth.rows)
    return Verdict("wrong", "rows", wrong) if wrong else Verdict("as the files say")


def _judge_refusal(error: LaionError, *, changed: bool) -> Verdict:
    said = str(error)
    if changed:
        return Verdict("wrong", "changed", f"the table is another after {said}")
    if "\n" in said or len(said) > 3_000:
        return Verdict("wrong", "wordy", said[:300])
    return Verdict("refused", type(error).__name__, said)


def _take(court: Court, settings: Settings, db: Database, *, fetched: bool = True) -> LaionError | None:
    """Takes shard 0 from its source to its partition, as the assets do. Returns the typed error if a step refuses."""
    store = ShardStore(settings.data_dir, settings.dataset)
    store.remove_raw(0)
    try:
        if fetched:
            fetch_shard(settings, 0, store.raw_folder)
        else:
            for path in RawFiles.of(court.source, 0).paths:
                shutil.copy(path, store.raw_folder)
        inspect_shard(store.require_raw(0))
        merged = merge_shard(store, 0, max_bad_fraction=court.max_bad_fraction)
        load_partition(db, merged)
    except LaionError as error:
        return error
    return None
