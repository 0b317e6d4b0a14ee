"""Finds the Dagster instance that the UI shows, for commands that start or read runs. It starts no run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Container, Iterator
from pathlib import Path

import dagster as dg

from laion_assets.errors import SettingsError
from laion_assets.execution.termination import PROCESS_TAG, process_of_command
from laion_assets.execution.worker import worker_is_gone
from laion_assets.health.runs import ACTIVE
from laion_assets.machine import ProcessIdentity
from laion_assets.waiting import waiting

CONFIG_FILE = Path(__file__).with_name("dagster.yaml")
"""The configuration of instances that commands make, which is the repository's own: queue, lanes, run monitoring."""

CONNECT_SECONDS = "10"
OPEN_SECONDS = 75.0
"""Seconds for six tries to connect, with the pauses between them."""

SETTLE_SECONDS = 3.0
"""While a command runs, it looks for other killed commands at this interval."""


BEGUN = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)

SUBMITTER_TAG = "laion_assets/submitted_by"
"""Tag of runs that a command gives to the daemon: host and process, without which the run would never be queued."""


def submitter_tag() -> dict[str, str]:
    """The tag of runs that this process submits to the daemon's queue."""
    return {SUBMITTER_TAG: str(ProcessIdentity.here())}


def process_tag() -> dict[str, str]:
    """The tag of runs that this process executes."""
    return {PROCESS_TAG: str(ProcessIdentity.here())}


def dagster_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, else that of this folder if it has dagster.yaml. Raises `SettingsError`."""
    # Absolute, as Dagster requires. An empty variable counts as unset, as for Dagster's own commands.
    named = os.environ.get("DAGSTER_HOME")
    home = Path(named).expanduser().absolute() if named else Path.cwd()
    if not (home / "dagster.yaml").is_file():
        raise SettingsError(
            "Dagster instance",
            found=f"no dagster.yaml in {home if named else 'this folder'}",
            expected="a folder with dagster.yaml",
            advice="`laion-assets init FOLDER` makes one; run this there, or set DAGSTER_HOME to it",
        )
    os.environ["DAGSTER_HOME"] = str(home)
    with _alone_in(home), _waiting_for_database(home):
        instance = dg.DagsterInstance.get()
        settle_dead_runs(instance)
    return instance


@contextlib.contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """One process at a time: Dagster makes the tables of a new instance without checking whether another process
    does."""
    descriptor = os.open(home, os.O_RDONLY)
    try:
        with waiting(f"another command that opens the Dagster instance {home}", OPEN_SECONDS):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _waiting_for_database(home: Path) -> contextlib.AbstractContextManager[None]:
    """Reports the wait for a database, if the instance has one: dagster-postgres tries six times to connect."""
    if b"postgres" not in (home / "dagster.yaml").read_bytes():
        return contextlib.nullcontext()
    # Without this libpq waits for a silent host as long as the operating system allows: minutes for each try.
    os.environ.setdefault("PGCONNECT_TIMEOUT", CONNECT_SECONDS)
    return waiting(f"the database of the Dagster instance {home}", OPEN_SECONDS)


@contextlib.contextmanager
def settling_dead_runs(instance: dg.DagsterInstance) -> Iterator[None]:
    """While the block runs, ends the runs of other commands that are killed during this time.

    A killed run may hold the place in the pool `clickhouse` for which a step of ours waits. The step would wait for
    ever.
    """
    ended = threading.Event()

    def settle() -> None:
        while not ended.wait(SETTLE_SECONDS):
            # A database that is locked or restarting is no reason to stop: the next look finds the same runs.
            with contextlib.suppress(Exception):
                settle_dead_runs(instance, ours_too=False)

    settling = threading.Thread(target=settle, name="settle dead runs", daemon=True)
    settling.start()
    try:
        yield
    finally:
        ended.set()
        settling.join()


def settle_dead_runs(instance: dg.DagsterInstance, *, ours_too: bool = True) -> list[str]:
    """Ends the runs whose processes were killed on this host, and frees their places in pools; returns the runs' ids.

    A run with this process's number belongs to an earlier process with the same number, unless this process has started
    runs (`ours_too` is false).

    A run that a killed command had created but not yet queued is ended, too: no daemon knows of it.

    Dagster's run monitoring does the same for runs that have begun, if it is enabled and has our launcher. Without this
    a run of an instance without a daemon would stay "started" for ever (or "not started", if it was killed before), and
    would keep its place in the pool `clickhouse`.
    """
    settled = []
    # No run of a command is in the daemon's queue, which may have thousands of runs.
    statuses = [status for status in ACTIVE if status != dg.DagsterRunStatus.QUEUED]
    for listed in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        left_in, why = _left(instance, listed, ours_too=ours_too)
        if listed.status not in left_in:
            continue
        # Read again: between the list and the look at the process, the run may have ended well, or been queued.
        run = instance.get_run_by_id(listed.run_id)
        if run is None or run.status not in left_in:
            continue
        if run.status == dg.DagsterRunStatus.CANCELING:
            # A failed run would be tried again, but somebody wanted it to end.
            instance.report_run_canceled(run, message=why)
        else:
            instance.report_run_failed(run, message=why)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        settled.append(run.run_id)
    return settled


def _left(
    instance: dg.DagsterInstance, run: dg.DagsterRun, *, ours_too: bool
) -> tuple[Container[dg.DagsterRunStatus], str]:
    """The states in which a run would stay because its process is gone, and why; no state if nothing is known of it."""
    if worker_is_gone(instance, run):
        return BEGUN, "The process that executed this run was killed."
    executor = ProcessIdentity.parse(process_of_command(run))
    # A run that the UI executes again has the tags of the run before it.
    submitter = ProcessIdentity.parse(run.tags.get(SUBMITTER_TAG, "") if run.parent_run_id is None else "")
    command = executor or submitter
    # A process opens its instance before it runs anything, so a run with its number is from an earlier process.
    if command is None or not (command.is_gone() or (ours_too and command == ProcessIdentity.here())):
        return (), ""
    if executor is not None:
        return ACTIVE, "The command that executed this run was killed."
    return (dg.DagsterRunStatus.NOT_STARTED,), "The command was killed before it had queued this run."


def make_instance(home: Path) -> None:
    """Makes `home` a Dagster instance of its own, and makes this process use it."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(CONFIG_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
