"""Tries loads onto a full or read-only disk, and two loads at once: each gives one clear error and loses nothing.

`python -m laion_assets_tests.torture.adversity`. It must run as root, because it mounts a small file system.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
from rich.console import Console

from laion_assets.errors import LaionError
from laion_assets.terminal.instance import dagster_instance
from laion_assets.terminal.load import load
from laion_assets_tests.torture.audit import audit_after_death
from laion_assets_tests.torture.life import DONE, FAULT, fork, judge, live, say, warm
from laion_assets_tests.torture.sudden_death import MEMORY, Plan, watch
from laion_assets_tests.torture.world import World

FREE_KILOBYTES = (0, 8, 100, 300, 700, 1_500, 1_800, 2_200, 3_000, 12_000)
"""Free space on the disk: from too little for a lock file to enough for the merged files but not for the engine."""

BLOCKED = "DagsterAssetCheckFailedError"
"""The error with which Dagster fails a run after a blocking check."""

REFUSED = "refused "
HELD = "refused embedded ClickHouse in"
"""The only error allowed for two healthy loads: another process holds the engine for longer than the load waits."""

LOADED = "loaded"


def attempt(world: World, version: int, shards: list[int], again: bool, pipe: int) -> None:
    """Runs one load and reports its end: loaded, refused with the message of a typed error, or a fault."""
    settings = world.settings(version, over_http=False)
    with dagster_instance() as instance:
        try:
            loaded = load(settings, shards, instance, Console(file=io.StringIO()), again=again)
        except LaionError as error:
            say(pipe, REFUSED + str(error))
            return
        if loaded:
            say(pipe, LOADED)
            return
        said, untyped = words_of_the_last_failure(instance)
        if untyped or not said:
            say(pipe, FAULT + f"an error that is none of ours: {untyped}".replace("\n", " ")[:600])
            return
        say(pipe, REFUSED + said[-1])


def words_of_the_last_failure(instance: dg.DagsterInstance) -> tuple[list[str], list[str]]:
    """Our messages for the failed steps and blocking checks of the last failed run, and errors that are not ours.

    A blocking check fails its step with Dagster's error, so the message is taken from the check. Only a check that
    could not read its data has the metadata `found`. A check that read wrong data has none, and is a fault.
    """
    said: list[str] = []
    untyped: list[str] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=1):
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                said += [str(check.description)] if not check.passed and "found" in check.metadata else []
            elif event.event_type == dg.DagsterEventType.STEP_FAILURE:
                failure = event.step_failure_data
                if failure.user_failure_data is not None:
                    said.append(str(failure.user_failure_data.description))
                elif not said or failure.error is None or failure.error.cls_name != BLOCKED:
                    untyped.append(str(failure.error)[:600])
    return said, untyped


def look(world: World, version: int, pipe: int) -> None:
    """Reports the version of each partition, or the faults."""
    settings = world.settings(version, over_http=False)
    with dagster_instance() as instance:
        versions, faults = audit_after_death(world, settings, instance)
    say(pipe, FAULT + "; ".join(faults) if faults else json.dumps(versions))


def heard(work: Callable[..., None], *arguments: object) -> str:
    """The last line that a child reports. The child is not killed."""
    life = watch(*fork(work, *arguments), Plan())
    return life.end or (life.seen[-1][1] if life.seen else "no word")


class Adversity:
    """Trials in a world whose store is on a small disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.faults: list[str] = []
        self.said: dict[str, str] = {}

    def disks(self) -> None:
        """Loads version 0, then version 1 with more free space each time, then onto a read-only disk."""
        with small_disk(self._world.data):
            self._complete(0)
            for kilobytes in FREE_KILOBYTES:
                with ballast(self._world.data, kilobytes << 10):
                    self._refused(f"{kilobytes} kB free")
                self._unchanged(f"{kilobytes} kB free")
            remount(self._world.data, "ro")
            self._refused("a read-only disk")
            remount(self._world.data, "rw")
            self._unchanged("a read-only disk")
            self._complete(1)

    def at_once(self) -> None:
        """Loads the same shards in two processes at once, then different shards."""
        for name, first, second in (("the same shards", [0, 1], [0, 1]), ("different shards", [0], [1])):
            self._world.renew()
            children = [fork(attempt, self._world, 0, shards, False) for shards in (first, second)]
            ends = [watch(*child, Plan()) for child in children]
            for end in [life.end or life.seen[-1][1] for life in ends]:
                self._expect(name, end, LOADED, HELD)
            self._complete(0)

    def _refused(self, name: str) -> None:
        self._expect(name, heard(attempt, self._world, 1, self._world.shards, True), REFUSED, LOADED)

    def _unchanged(self, name: str) -> None:
        versions = heard(look, self._world, 1)
        loaded = self.said[name] == LOADED
        expected = {str(shard): int(loaded) for shard in self._world.shards}
        if versions.startswith(FAULT) or (loaded and json.loads(versions) != expected):
            self.faults.append(f"{name}: {versions}")

    def _complete(self, version: int) -> None:
        for work in ((live, self._world, version, False, 0), (judge, self._world, version)):
            end = heard(*work)
            if end != DONE:
                self.faults.append(f"version {version} was not completed: {end}")

    def _expect(self, name: str, end: str, *expected: str) -> None:
        self.said[name] = end
        sys.stderr.write(f"{name}: {end}\n")
        if not end.startswith(expected):
            self.faults.append(f"{name}: {end}")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mounts a separate file system of 60 MB. Raises `PermissionError` if mounting fails."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        raise PermissionError("mounting a small file system needs to be root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def ballast(folder: Path, free: int) -> Iterator[None]:
    """Fills the disk with a file until only `free` bytes are left."""
    path = folder / "ballast"
    facts = os.statvfs(folder)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - free))
    try:
        yield
    finally:
        path.unlink()


def remount(folder: Path, options: str) -> None:
    """Mounts a file system again with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def main() -> None:
    """Runs both trials and prints the reports. Exit code 1: something was lost or wrong; 3: the trials cannot run."""
    with tempfile.TemporaryDirectory(prefix="adversity-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        world = World(Path(folder))
        world.prepare()
        warm(world)
        adversity = Adversity(world)
        try:
            world.renew()
            adversity.disks()
            adversity.at_once()
        except PermissionError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(3)
    sys.stdout.write(json.dumps({"said": adversity.said, "faults": adversity.faults}, indent=1) + "\n")
    sys.exit(1 if adversity.faults else 0)


if __name__ == "__main__":
    main()
