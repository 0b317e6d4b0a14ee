"""Kills loads at random moments, from a recorded seed, and compares table and files with the truth.

`python -m laion_assets_tests.torture.sudden_death --kills 300`. Half of the kills happen at any time of a load. The
other half happen in a stage drawn at random, so that short stages are killed, too. Each process first checks what the
previous one left. Each completed load is compared with the truth row by row. The next load uses the other version of
the files, and every second time also an empty store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from laion_assets_tests.torture import stages
from laion_assets_tests.torture.life import DONE, FAULT, READY, TELL_TRACES, fork, judge, live, warm
from laion_assets_tests.torture.world import VERSIONS, World

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
"""A file system in memory is faster than a disk. Like a disk, it keeps its files when a process is killed."""

LONGEST_SILENCE_SECONDS = 600.0
"""A process that reports nothing for longer hangs: a fault. On a busy machine, a second can become half a minute."""


MOST_FAULTS = 20


@dataclass
class Life:
    """The record of one process: its stages, each with its start in seconds after READY, and how the process ended."""

    seen: list[tuple[float, str]] = field(default_factory=list)
    killed: bool = False
    end: str = ""
    cpu_seconds: float = 0.0

    @property
    def stage(self) -> str:
        """The last stage of the process."""
        return self.seen[-1][1] if self.seen else stages.BETWEEN

    @property
    def seconds(self) -> float:
        """Seconds from READY to the last stage reported."""
        return self.seen[-1][0] if self.seen else 0.0


@dataclass(frozen=True)
class Plan:
    """When to kill: `seconds` after a stage started for the `nth` time, or after READY if `stage` is None; or never."""

    seconds: float | None = None
    stage: str | None = None
    nth: int = 1


@dataclass
class Tally:
    """The result of a trial."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    completed: int = 0
    rows_compared: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, object]:
        """The result as values for JSON."""
        return {
            "seed": self.seed,
            "kills": sum(self.kills.values()),
            "completed_loads": self.completed,
            "seconds": round(self.seconds, 1),
            "kills_by_stage": dict(self.kills.most_common()),
            "stages_without_a_kill": [stage for stage in stages.ALL if not self.kills[stage]],
            "faults": self.faults,
        }


class Trial:
    """Runs processes one after another in one world, and kills most of them."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._random = world, random.Random(seed)
        self._version = 0
        self._usual: dict[str, list[float]] = {}
        self._whole = 0.0
        self.tally = Tally(seed)

    def run(self, kills: int) -> Tally:
        """Runs until `kills` processes were killed and one more load completed, or until it is interrupted."""
        started = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            self._go_on(kills)
        self.tally.seconds = time.monotonic() - started
        return self.tally

    def _go_on(self, kills: int) -> None:
        self._world.renew()
        warm(self._world)
        self._learn()
        if self.tally.faults:
            return
        while sum(self.tally.kills.values()) < kills and len(self.tally.faults) < MOST_FAULTS:
            self._one(self._plan())
        self._one(Plan())

    def _learn(self) -> None:
        """Runs a load without a kill, to learn the duration of the load and of each stage."""
        life = watch(*fork(live, self._world, self._version, True, 0), Plan())
        self._conclude(life)
        self._whole = life.seconds
        for (began, stage), (ended, _) in zip(life.seen[:-1], life.seen[1:], strict=True):
            self._usual.setdefault(stage, []).append(ended - began)

    def _plan(self) -> Plan:
        if self._random.random() < 0.5:
            # Each process continues where the previous one was killed, so that even early kills reach every stage.
            return Plan(self._random.uniform(0, self._whole / 2))
        rare = [
            stage for stage in stages.ALL if self.tally.kills[stage] <= min(self.tally.kills[s] for s in self._usual)
        ]
        stage = self._random.choice(rare or list(self._usual))
        usual = self._usual.get(stage, [0.01])
        return Plan(self._random.uniform(0, statistics.median(usual)), stage, self._random.randint(1, 4))

    def _one(self, plan: Plan) -> None:
        """Runs one process by this plan."""
        seed = self._random.randrange(1 << 30)
        life = watch(*fork(live, self._world, self._version, bool(seed % 2), seed), plan)
        if life.killed:
            self.tally.kills[life.stage] += 1
            sys.stderr.write(f"kill {sum(self.tally.kills.values())} in: {life.stage}\n")
        else:
            self._conclude(life)

    def _conclude(self, life: Life) -> None:
        """Judges a load that was not killed, then prepares the world for the next load."""
        end = life.end
        if end == DONE:
            end = watch(*fork(judge, self._world, self._version), Plan()).end
        if end != DONE:
            fault = f"after {sum(self.tally.kills.values())} kills: {end or 'no word'}"
            self.tally.faults.append(fault)
            sys.stderr.write(fault + "\n")
        else:
            self.tally.completed += 1
            sys.stderr.write(f"load {self.tally.completed} ran to its end, and all is as it must be\n")
        if end != DONE or self.tally.completed % 2 == 0:
            self._world.renew()
        self._version = VERSIONS[(self._version + 1) % len(VERSIONS)]


def watch(child: int, pipe: int, plan: Plan) -> Life:
    """Reads a child's reports until it ends, and kills its process group when the plan says so."""
    life, rest, ready_at = Life(), b"", 0.0
    due: float | None = None
    while True:
        wait = LONGEST_SILENCE_SECONDS if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([pipe], [], [], wait)
        if not readable or (due is not None and time.monotonic() >= due):
            life.killed = due is not None
            if due is None:
                os.kill(child, TELL_TRACES)
                time.sleep(1)
                life.end = f"{FAULT}it hung: {os.read(pipe, 1 << 16).decode(errors='replace')}"
            os.killpg(child, signal.SIGKILL)
            break
        data = os.read(pipe, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).decode(errors="replace").encode().split(b"\n")
        for line in map(bytes.decode, lines):
            now = time.monotonic()
            if line == READY:
                ready_at = now
            elif line == DONE or line.startswith(FAULT):
                life.end = line
                continue
            else:
                life.seen.append((now - ready_at, line))
            if due is None and _is_due(plan, line, life):
                due = now + (plan.seconds or 0.0)
    _drain(pipe, life)
    _, _, usage = os.wait4(child, 0)
    life.cpu_seconds = usage.ru_utime + usage.ru_stime
    os.close(pipe)
    return life


def _is_due(plan: Plan, line: str, life: Life) -> bool:
    if plan.seconds is None:
        return False
    if plan.stage is None:
        return line == READY
    return line == plan.stage and sum(stage == line for _, stage in life.seen) >= plan.nth


def _drain(pipe: int, life: Life) -> None:
    """Reads the stages that a process reported before it was killed."""
    said = b""
    while data := os.read(pipe, 1 << 16):
        said += data
    for line in said.decode(errors="replace").splitlines():
        if line in stages.ALL:
            life.seen.append((life.seconds, line))


@contextlib.contextmanager
def served(world: World) -> Iterator[None]:
    """Serves the world's versions over HTTP, too, from a separate process."""
    folders = [str(world.source(version)) for version in VERSIONS]
    command = [sys.executable, "-m", "laion_assets_tests.torture.serve", *folders]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdin is not None
        world.urls = {version: server.stdout.readline().strip() for version in VERSIONS}
        yield
        server.stdin.close()


def main() -> None:
    """Runs a trial and prints its counts. Exit code 1: something was lost, doubled, wrong or left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    sys.stderr.write(f"seed {seed}\n")
    with tempfile.TemporaryDirectory(prefix="torture-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        world = World(Path(folder))
        world.prepare()
        with served(world):
            tally = Trial(world, seed).run(given.kills)
    sys.stdout.write(json.dumps(tally.facts(), indent=1) + "\n")
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
