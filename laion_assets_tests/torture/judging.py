"""Takes spoilt files through fetch, merge and load, and says what came of it: refused, as the files say, or wrong.

The product works in a process of its own, so that files which end it are counted, too. It spoils nothing itself.
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
    """What came of one set of files: the kind of error and its words where they were refused, or what is wrong."""

    outcome: Outcome
    kind: str = ""
    said: str = ""


@dataclass(frozen=True)
class Court:
    """Where cases are tried: `sound` has the files of shard 0 that are loaded first, `source` those of the case.

    `dimension` is the dataset's; at most `max_bad_fraction` of a case's rows may be put aside.
    """

    folder: Path
    dimension: int
    max_bad_fraction: float

    @property
    def sound(self) -> Path:
        """Nobody changes these."""
        return self.folder / "sound"

    @property
    def source(self) -> Path:
        """A copy of them, spoilt."""
        return self.folder / "source"

    def settings(self, source: Path, *, manifest: bool = False) -> Settings:
        """To load shard 0 from a folder; with the manifest of the sound files where it is wanted."""
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
        """Describes the dataset, and notes the SHA-256 of the sound files."""
        toml = f'name = "court"\nshards = 1\ndimension = {self.dimension}\n'
        (self.folder / "court.toml").write_text(toml, encoding="utf-8")
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in RawFiles.of(self.sound, 0).paths
        ]
        (self.folder / "manifest").write_text("\n".join(sums), encoding="utf-8")

    def reset(self) -> RawFiles:
        """Sound files in the case's folder, to be spoilt."""
        shutil.rmtree(self.source, ignore_errors=True)
        shutil.copytree(self.sound, self.source)
        return RawFiles.of(self.source, 0)


class Judge:
    """Tries case after case in a process that is started again when a case ends it."""

    def __init__(self, court: Court) -> None:
        self._court = court
        self._start()

    def _start(self) -> None:
        self._line, other = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_work, args=(self._court, other), daemon=True)
        self._process.start()
        other.close()

    def try_case(self, *, manifest: bool = False, fetched: bool = True) -> Verdict:
        """What comes of the files in `court.source`: fetched from there, or as if they went bad in the store."""
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
        """Ends the process."""
        self._process.kill()
        self._process.join()


@contextmanager
def judge(court: Court) -> Iterator[Judge]:
    """A judge who goes home at the end."""
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
    """Shard 0 from its source to its partition, as the assets do it; the typed error where one of them refuses."""
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
