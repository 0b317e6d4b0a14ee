"""Loads the same shards in two processes at once, and kills one or both at random moments, from a recorded seed.

`python -m laion_assets_tests.torture.two_loaders --kills 150 [--server]`. With the embedded engine, the two loaders
share a store, like two commands on one machine. With ClickHouse's HTTP interface, served by a separate process, each
loader has a store and a Dagster instance, like two hosts. A loader that is not killed must succeed, or say who holds
the engine or lease. After each round, the table and the stores are compared with the truth row by row. After some
rounds, a load without kills must complete them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from laion_assets.errors import LaionError
from laion_assets.settings import Settings
from laion_assets.terminal.instance import dagster_instance
from laion_assets.terminal.load import load
from laion_assets_tests.endpoint.process import ServerProcess, endpoint_process
from laion_assets_tests.torture import stages
from laion_assets_tests.torture.adversity import words_of_the_last_failure
from laion_assets_tests.torture.audit import audit_after_death, audit_after_load
from laion_assets_tests.torture.life import DONE, FAULT, READY, fork, say, warm
from laion_assets_tests.torture.sudden_death import MEMORY, MOST_FAULTS, Life, Plan, watch
from laion_assets_tests.torture.world import VERSIONS, World

HELD = "held"
"""The end of a loader that was refused because the other loader holds the engine or the lease."""

COMPLETED_EVERY = 4
"""After each such number of rounds, a load without kills must complete the table."""


class OtherHost(World):
    """The same sources, with the store and the Dagster instance of a second host."""

    @property
    def home(self) -> Path:
        """A folder beside the first host's."""
        return self.folder / "other_home"


def settings_of(world: World, version: int, url: str) -> Settings:
    """A loader's settings. Without a URL, the loader uses the embedded engine in its store."""
    return world.settings(version, over_http=False, **({"clickhouse": url} if url else {}))


def contend(world: World, version: int, url: str, seed: int, pipe: int) -> None:
    """Loads all shards again, in a random order: one of two loaders. With a negative seed, audits the world first."""
    settings = settings_of(world, version, url)
    with dagster_instance() as instance:
        _, faults = audit_after_death(world, settings, instance) if seed < 0 else ({}, [])
        if faults:
            say(pipe, FAULT + "; ".join(faults))
            return
        say(pipe, READY)
        stages.arm(pipe)
        shards = random.Random(seed).sample(world.shards, len(world.shards))
        try:
            loaded = load(settings, shards, instance, Console(file=io.StringIO()), again=True)
        except LaionError as error:
            say(pipe, f"{FAULT}{HELD}" if "held by" in str(error) else FAULT + str(error))
            return
        if loaded:
            say(pipe, DONE)
            return
        said, untyped = words_of_the_last_failure(instance)
        held = bool(said) and not untyped and "held by" in said[-1]
        say(pipe, f"{FAULT}{HELD}" if held else f"{FAULT}{said} {untyped}".replace("\n", " ")[:900])


def look(world: World, version: int, url: str, complete: bool, pipe: int) -> None:
    """Compares table and stores with the truth. With `complete`, they must be as after a completed load."""
    settings = settings_of(world, version, url)
    with dagster_instance() as instance:
        if complete:
            faults = audit_after_load(world, settings, instance, version)
        else:
            _, faults = audit_after_death(world, settings, instance)
    say(pipe, FAULT + "; ".join(faults) if faults else DONE)


@dataclass
class Tally:
    """The result of a trial. `ends` counts how loaders ended that were not killed."""

    seed: int
    transport: str
    rounds: int = 0
    completed: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def facts(self) -> dict[str, object]:
        """The result as values for JSON."""
        return {
            "seed": self.seed,
            "transport": self.transport,
            "rounds": self.rounds,
            "kills": sum(self.kills.values()),
            "completed_loads": self.completed,
            "ends_of_those_not_killed": dict(self.ends),
            "kills_by_stage": dict(self.kills.most_common()),
            "seconds": round(self.seconds, 1),
            "faults": self.faults,
        }


class TwoLoaders:
    """Runs rounds of two loaders in one world."""

    def __init__(self, world: World, seed: int, server: ServerProcess | None) -> None:
        other = world if server is None else OtherHost(world.folder, world.urls, world.truths)
        self._world, self._worlds = world, (world, other)
        self._server, self._random = server, random.Random(seed)
        self._version, self._url = 0, ""
        self._whole: list[float] = []
        self.tally = Tally(seed, "embedded" if server is None else "server")

    def run(self, kills: int) -> Tally:
        """Runs rounds until `kills` loaders were killed, or until it is interrupted."""
        started = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            warm(self._world)
            self._renew()
            self._round([Plan(), Plan()])
            while sum(self.tally.kills.values()) < kills and len(self.tally.faults) < MOST_FAULTS:
                self._round([self._plan(), self._plan() if self._random.random() < 0.5 else Plan()])
                if self.tally.rounds % COMPLETED_EVERY == 0:
                    self._complete()
            self._complete()
        self.tally.seconds = time.monotonic() - started
        return self.tally

    def _plan(self) -> Plan:
        if self._random.random() < 0.5:
            return Plan(self._random.uniform(0, statistics.median(self._whole or [5.0])))
        stage = self._random.choice(LOADING)
        return Plan(self._random.uniform(0, 0.05), stage, self._random.randint(1, 4))

    def _round(self, plans: list[Plan]) -> None:
        self.tally.rounds += 1
        seeds = [self._random.randrange(1 << 30) for _ in plans]
        children = [
            fork(contend, world, self._version, self._url, seed)
            for world, seed in zip(self._worlds, seeds, strict=True)
        ]
        with ThreadPoolExecutor(len(plans)) as threads:
            lives = list(threads.map(_watch, children, plans))
        for life in lives:
            self._count(life)
        self._look(complete=False)

    def _count(self, life: Life) -> None:
        if life.killed:
            self.tally.kills[life.stage] += 1
        elif life.end in (DONE, FAULT + HELD):
            self.tally.ends[life.end.removeprefix(FAULT)] += 1
            if life.end == DONE:
                self._whole.append(life.seconds)
        else:
            self._fault(life.end or "no word")
        sys.stderr.write(
            f"{sum(self.tally.kills.values())} kills, {self.tally.rounds} rounds: {life.end or life.stage}\n"
        )

    def _complete(self) -> None:
        """Runs a load without kills. The next round uses the other version and, every second time, an empty store."""
        end = watch(*fork(contend, self._world, self._version, self._url, -1), Plan()).end
        if end != DONE:
            self._fault(f"a load that nobody disturbed: {end}")
        self._look(complete=True)
        self.tally.completed += 1
        if self.tally.completed % 2 == 0:
            self._renew()
        self._version = VERSIONS[(self._version + 1) % len(VERSIONS)]

    def _look(self, *, complete: bool) -> None:
        for world in self._worlds[:1] if complete or self._server is None else self._worlds:
            end = watch(*fork(look, world, self._version, self._url, complete), Plan()).end
            if end != DONE:
                self._fault(f"looked at {'a whole load' if complete else 'a round'}: {end or 'no word'}")
                return

    def _fault(self, said: str) -> None:
        fault = f"round {self.tally.rounds}, {sum(self.tally.kills.values())} kills: {said}"
        self.tally.faults.append(fault)
        sys.stderr.write(fault + "\n")
        self._renew()

    def _renew(self) -> None:
        for world in self._worlds:
            world.renew()
        self._url = self._server.url() if self._server is not None else ""


def _watch(child: tuple[int, int], plan: Plan) -> Life:
    return watch(*child, plan)


LOADING = (
    *("fetch", "name a fetched file", "inspect", "merge blocks", "publish a file", "remove raw files"),
    *("open the engine", "make staging", "insert", "merge parts", "check staged rows", "drop staging"),
    *(stages.REPLACE, "check the partition", "record an event"),
)
"""The stages of a load. Later stages are not part of this trial."""


def main() -> None:
    """Runs a trial and prints its counts. Exit code 1: something was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--server", action="store_true", help="over ClickHouse's HTTP interface")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if given.seed is None else given.seed
    sys.stderr.write(f"seed {seed}\n")
    with tempfile.TemporaryDirectory(prefix="loaders-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        world = World(Path(folder))
        world.prepare()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(endpoint_process(Path(folder) / "server")) if given.server else None
            tally = TwoLoaders(world, seed, server).run(given.kills)
    sys.stdout.write(json.dumps(tally.facts(), indent=1) + "\n")
    sys.exit(1 if tally.faults else 0)


if __name__ == "__main__":
    main()
