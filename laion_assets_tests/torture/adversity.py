"""Loads onto a disk that is full or read-only, and two loads at once: one clear error, nothing lost.

`python -m laion_assets_tests.torture.adversity`. Needs to be root, to mount a small file system.
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
"""What is left on the disk: from not even a lock file to room for the merged files and not for the engine."""

BLOCKED = "DagsterAssetCheckFailedError"
"""The error by which Dagster ends a run after a blocking check."""

REFUSED = "refused "
HELD = "refused embedded ClickHouse in"
"""Another process holds the engine for longer than we wait: the only thing that two healthy loads may say."""

LOADED = "loaded"


def attempt(world: World, version: int, shards: list[int], again: bool, pipe: int) -> None:
    """One load; says how it ended: loaded, refused with a typed error's words, or a fault."""
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
    """What failed steps and blocking checks of the last failed run said in our words, and errors that are not ours.

    A blocking check fails its step by an error of Dagster's: the words are the check's, where it could not look. A
    check that looked and found the data wrong says no `found`, and is a fault.
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
    """Says which version each partition is, or what is wrong."""
    settings = world.settings(version, over_http=False)
    with dagster_instance() as instance:
        versions, faults = audit_after_death(world, settings, instance)
    say(pipe, FAULT + "; ".join(faults) if faults else json.dumps(versions))


def heard(work: Callable[..., None], *arguments: object) -> str:
    """The last word of a child that runs to its end."""
    life = watch(*fork(work, *arguments), Plan())
    return life.end or (life.seen[-1][1] if life.seen else "no word")


class Adversity:
    """A world whose store is on a small disk."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.faults: list[str] = []
        self.said: dict[str, str] = {}

    def disks(self) -> None:
        """Version 0 is loaded; then version 1, for which there is ever more room; then none may write."""
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
        """Two processes load the same shards, then different ones."""
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
    """A file system of its own, of 60 MB. Raises `PermissionError` where none can be mounted."""
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
    """A file that leaves so many bytes."""
    path = folder / "ballast"
    facts = os.statvfs(folder)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - free))
    try:
        yield
    finally:
        path.unlink()


def remount(folder: Path, options: str) -> None:
    """Changes a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def main() -> None:
    """Runs both and prints what was said; exit code 1 when something was lost or wrong, 3 where it cannot run."""
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
