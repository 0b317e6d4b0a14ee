"""Runs peers alternately, each as whole processes in a new folder, and compares them. It writes no report.

A peer is one way to do the work: our code, another tool, or the least work that is possible.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.process import Measured, measure

Command = list[str]


@dataclass(frozen=True)
class Bench:
    """How to run a benchmark: the number of rounds, whether sizes are small (`quick`), the folder of large files, the
    number of rows if it is given, and the peers to leave out."""

    runs: int
    quick: bool
    scratch: Path
    asked_rows: int | None = None
    without: Sequence[str] = ()

    def rows(self, full: int, quick: int) -> int:
        """The number of rows: the given one, else the benchmark's own (`quick` or not)."""
        return self.asked_rows or (quick if self.quick else full)


@dataclass(frozen=True)
class Peer:
    """One way to do the work.

    `prepare` puts links to the inputs into a new folder, which is not timed. It returns the commands to time, by name
    and in order. `inspect` runs after the commands and is not timed. Its JSON describes the result. `inputs` are files
    that are read once before each round.
    """

    name: str
    prepare: Callable[[Path], dict[str, Command]]
    inputs: Sequence[Path] = ()
    inspect: Callable[[Path], Command] | None = None


@dataclass
class Round:
    """One round of one peer: its commands in order, and the result."""

    stages: dict[str, Measured]
    outcome: dict[str, object] = field(default_factory=dict)

    @property
    def wall(self) -> float:
        """Wall seconds of all processes of the round."""
        return sum(stage.wall for stage in self.stages.values())

    @property
    def inside(self) -> float:
        """Wall seconds of the named parts of these processes."""
        return sum(stage.inside for stage in self.stages.values())

    @property
    def cpu(self) -> float:
        """CPU seconds of all processes of the round."""
        return sum(stage.cpu for stage in self.stages.values())

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of the process of the round that used the most memory."""
        return max(stage.peak_bytes for stage in self.stages.values())

    def figure(self, name: str) -> float:
        """A figure that a command or the inspection returned. Raises `KeyError`."""
        for figures in (self.outcome, *(stage.result for stage in self.stages.values())):
            if name in figures:
                return float(str(figures[name]))
        raise KeyError(name)


@dataclass(frozen=True)
class Spread:
    """The median, the lowest and the highest value of some runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ".2f") -> str:
        """The median, and the range in parentheses."""
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


Rounds = dict[str, list[Round]]
Value = Callable[[Round], float]


def wall(one: Round) -> float:
    """Wall seconds."""
    return one.wall


def inside(one: Round) -> float:
    """Wall seconds of the named parts, without the start of the interpreter and without imports."""
    return one.inside


def cpu(one: Round) -> float:
    """CPU seconds, which can be compared even if other programs use the machine."""
    return one.cpu


def peak(one: Round) -> float:
    """Peak bytes of anonymous memory."""
    return float(one.peak_bytes)


def spread(rounds: Rounds, peer: str, value: Value) -> Spread:
    """The spread of a value over a peer's rounds."""
    return Spread.of([value(one) for one in rounds[peer]])


def figure(name: str) -> Value:
    """A named figure of a round."""
    return lambda one: one.figure(name)


def ratio(rounds: Rounds, over: str, under: str, value: Value, under_value: Value | None = None) -> Spread:
    """The value of `over` divided by that of `under`, round by round. The two runs of a round are minutes apart at
    most."""
    pairs = zip(rounds[over], rounds[under], strict=True)
    return Spread.of([value(a) / (under_value or value)(b) for a, b in pairs])


SETTLE_SECONDS = 10.0
LARGE_BYTES = 10**9
"""Seconds between peers. A virtual machine may return free memory to its host after some seconds. Then 4 GB of new
pages take 8 s, but right after another program they take 1 s. With this pause no peer is faster because the peer before
it has just freed memory."""


def compare(bench: Bench, peers: Sequence[Peer]) -> Rounds:
    """Runs every peer once per round. Each round begins with another peer, so that no peer always follows the same one.

    Before each peer the disk is synced, so that no peer waits for another peer's writes. The peer's input files are
    read once, so that all peers find their inputs in the page cache. The files that a peer wrote are removed before the
    next peer begins. With large inputs there is also a pause of `SETTLE_SECONDS`. After Ctrl-C the finished rounds are
    reported.
    """
    rounds: Rounds = {peer.name: [] for peer in peers}
    large = any(sum(path.stat().st_size for path in peer.inputs) > LARGE_BYTES for peer in peers)
    settle = SETTLE_SECONDS if large else 0.0
    for number in range(bench.runs):
        turn = number % len(peers)
        try:
            done = {peer.name: _told(bench, number, peer, settle) for peer in (*peers[turn:], *peers[:turn])}
        except KeyboardInterrupt:
            if not number:
                raise
            sys.stderr.write(f"  ended after {number} rounds\n")
            break
        for name, one in done.items():
            rounds[name].append(one)
    return rounds


def _told(bench: Bench, number: int, peer: Peer, settle: float) -> Round:
    done = _run(bench.scratch / "work", peer, settle)
    sys.stderr.write(
        f"  round {number + 1}/{bench.runs}  {peer.name}: {done.wall:.2f} s, CPU {done.cpu:.2f} s, "
        f"{done.peak_bytes / 1e6:.0f} MB\n"
    )
    return done


def _run(folder: Path, peer: Peer, settle: float) -> Round:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        commands = peer.prepare(folder)
        os.sync()
        for path in peer.inputs:
            read_once(path)
        time.sleep(settle)
        done = Round({name: measure(command) for name, command in commands.items()})
        if peer.inspect is not None:
            done.outcome = dict(measure(peer.inspect(folder)).result)
        return done
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_once(path: Path) -> None:
    """Reads a file, so that it is in the page cache."""
    buffer = bytearray(8 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
