"""Loads shards in several processes on a ClickHouse server: each is a `laion-assets load` of its share.

Ctrl-C in a terminal reaches all of them, and SIGTERM is passed on to them. Each ends its run, and the same command
continues the load later.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO

from rich.console import Console

from laion_assets.errors import SettingsError
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.interrupts import sigterm_as_ctrl_c
from laion_assets.terminal.outcome import Outcome
from laion_assets.terminal.runs import STOPPED


@dataclass
class _Worker:
    """A process and its share of the shards; `outcomes` are available when it ends."""

    shards: list[int]
    process: subprocess.Popen[str]
    said: str = ""

    def outcomes(self) -> dict[int, Outcome]:
        """The outcomes of its shards; if it was killed, all have failed."""
        try:
            found = [Outcome(**each) for each in json.loads(self.said)["shards"]]
        except (ValueError, KeyError, TypeError):
            why = f"its process ended with code {self.process.returncode}"
            found = [Outcome(shard, 0, 0.0, error=why) for shard in self.shards]
        return {outcome.shard: outcome for outcome in found}


def load_side_by_side(
    settings: Settings, shards: list[int], console: Console, *, processes: int, again: bool
) -> dict[int, Outcome]:
    """The outcome of each shard. Raises `SettingsError` on the embedded engine, which only one process can open."""
    if settings.clickhouse_url.get_secret_value().startswith("chdb:"):
        raise SettingsError(
            "--parallel",
            found="the embedded engine, whose folder belongs to one process at a time",
            expected="a ClickHouse server",
            advice="set LAION_CLICKHOUSE, or leave --parallel out",
        )
    workers: list[_Worker] = []
    with ShardBars(console) as bars, sigterm_as_ctrl_c():
        try:
            shares = [shards[number::processes] for number in range(min(processes, len(shards)))]
            workers.extend(_start(share, again=again) for share in shares)
            _wait(workers, bars)
        except KeyboardInterrupt:
            console.print(STOPPED, style="yellow")
            raise
        finally:
            _end(workers)
    return {shard: outcome for worker in workers for shard, outcome in worker.outcomes().items()}


def _wait(workers: list[_Worker], bars: ShardBars) -> None:
    """Shows what the processes report, and waits until all have ended."""
    followers = [threading.Thread(target=_follow, args=(worker, bars), daemon=True) for worker in workers]
    for follower in followers:
        follower.start()
    for worker, follower in zip(workers, followers, strict=True):
        worker.said = _read(worker.process.stdout)
        worker.process.wait()
        follower.join()


def _end(workers: list[_Worker]) -> None:
    """Ends the processes that still run. All are told before the first is waited for, which may take seconds."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.wait()


def _start(shards: list[int], *, again: bool) -> _Worker:
    command = [sys.executable, "-m", "laion_assets.cli", "load", ",".join(map(str, shards)), "--json", "--part"]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [*command, *(["--again"] if again else [])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return _Worker(shards, process)


def _follow(worker: _Worker, bars: ShardBars) -> None:
    """Passes on what a process reports about its progress."""
    for line in worker.process.stderr or ():
        bars.say(line.rstrip())


def _read(stream: IO[str] | None) -> str:
    return "" if stream is None else stream.read()
