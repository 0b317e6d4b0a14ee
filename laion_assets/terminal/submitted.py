"""Runs that a command gives to Dagster's daemon: submitted to its queue, followed to their end, canceled on Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container, Iterator, Mapping, Sequence

import dagster as dg

from laion_assets.assets.same_settings import SETTINGS_TAG, settings_digest
from laion_assets.automation.queue import BULK, PERSON
from laion_assets.dagster_internals.executing import pop_captured_interrupt
from laion_assets.dagster_internals.launching import capture_interrupts
from laion_assets.dagster_internals.names import PRIORITY_TAG, QUEUE_DAEMON
from laion_assets.health.history import ShardHistory
from laion_assets.health.keys import CHAIN
from laion_assets.health.runs import ACTIVE, IDS_AT_ONCE
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.instance import submitter_tag
from laion_assets.terminal.runs import make_run
from laion_assets.terminal.shard_run import again_tag, shard_job

LIVE_SECONDS = 75.0
"""A daemon writes a heartbeat every 30 s. After twice that time without a heartbeat it counts as gone."""

WAITING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
RUNNING = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED)

POLL_SECONDS = 0.5
CANCEL_SECONDS = 6.0
"""Seconds to wait for the end of canceled runs: each ends its process and its statement within 5 s."""


def daemon_is_live(instance: dg.DagsterInstance) -> bool:
    """Whether a daemon takes runs from this instance's queue."""
    if not isinstance(instance.run_coordinator, dg.QueuedRunCoordinator):
        return False
    beat = instance.get_daemon_heartbeats().get(QUEUE_DAEMON)
    return beat is not None and time.time() - beat.timestamp < LIVE_SECONDS


def submit(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    settings: Settings,
    *,
    assets: Sequence[str],
    shard: int,
    bulk: bool,
    tags: Mapping[str, str],
) -> str:
    """Queues a run with these tags for the daemon; its id. The run fails if the code location's settings have another
    digest than its tag says."""
    more = {PRIORITY_TAG: str(BULK if bulk else PERSON), **submitter_tag()}
    run = make_run(job, instance, assets=assets, key=settings.dataset.key_of(shard), tags={**tags, **more})
    instance.submit_run(run.run_id, workspace=None)  # type: ignore[arg-type]  # a queue needs none
    return run.run_id


def submit_all(
    settings: Settings,
    instance: dg.DagsterInstance,
    todo: Mapping[int, Sequence[str]],
    submitted: dict[int, str],
    *,
    again: bool = False,
) -> None:
    """Queues a run of these assets for each shard, and adds its id to `submitted` at once.

    Raises `KeyboardInterrupt` on Ctrl-C or SIGTERM, after the submission under way: no queued run is unknown then.
    """
    job, bulk = shard_job(settings, None), len(todo) > 1
    tags = {SETTINGS_TAG: settings_digest(settings), **again_tag(again)}
    with capture_interrupts():
        for shard, steps in todo.items():
            submitted[shard] = submit(job, instance, settings, assets=steps, shard=shard, bulk=bulk, tags=tags)
            if pop_captured_interrupt():
                raise KeyboardInterrupt


def runs_under_way(
    settings: Settings,
    instance: dg.DagsterInstance,
    todo: Mapping[int, Sequence[str]],
    histories: Sequence[ShardHistory],
) -> dict[int, str]:
    """The queued or running runs that make these assets of a shard with these settings, by shard.

    A run that is being canceled makes nothing more, so it is left out.
    """
    shards = {history.run_id: history.shard for history in histories if history.active and history.shard in todo}
    digest, found = settings_digest(settings), {}
    for piece in _pieces([run_id for run_id in shards if run_id]):
        for run in instance.get_runs(dg.RunsFilter(run_ids=piece, statuses=[*WAITING, *RUNNING])):
            shard = shards[run.run_id]
            # A run without a selection makes all assets of its job.
            names = CHAIN if run.asset_selection is None else {key.path[-1] for key in run.asset_selection}
            if set(todo[shard]) <= set(names) and run.tags.get(SETTINGS_TAG, digest) == digest:
                found[shard] = run.run_id
    return found


def follow(
    settings: Settings, instance: dg.DagsterInstance, runs: Mapping[int, str], bars: ShardBars, *, ours: Container[int]
) -> Iterator[tuple[int, dg.DagsterRun | None, float]]:
    """Yields each shard with its run and its seconds when the run ends, without a run if it was deleted.

    If the daemon is gone and no run is active, the other runs are removed from the queue if they are `ours`, and this
    ends early.
    """
    left = dict(runs)
    shown: dict[int, str] = {}
    while left:
        waiting, begun = _look_at(instance, list(left.values()))
        for shard, run_id in list(left.items()):
            record = begun.get(run_id)
            if run_id not in waiting and record is None:
                del left[shard]
                yield shard, None, 0.0
            elif record is not None and record.dagster_run.is_finished:
                del left[shard]
                took = (record.end_time or 0.0) - (record.start_time or record.end_time or 0.0)
                yield shard, record.dagster_run, took
            elif shown.get(shard) != (stage := _stage(record)):
                shown[shard] = stage
                bars.bar(settings.dataset.key_of(shard)).begin(stage)
        if left and waiting.issuperset(left.values()) and not daemon_is_live(instance):
            cancel(instance, [run_id for shard, run_id in left.items() if shard in ours])
            return
        # Thousands of waiting runs are looked at less often: the daemon, too, reads the database.
        time.sleep(POLL_SECONDS * max(1.0, len(left) / IDS_AT_ONCE))


def cancel(instance: dg.DagsterInstance, runs: Sequence[str]) -> None:
    """Cancels runs, queued ones first, and waits until the active ones have ended, up to `CANCEL_SECONDS`."""
    for statuses in (WAITING, RUNNING):
        for run_id in _ids_in(instance, runs, statuses):
            with contextlib.suppress(Exception):
                instance.run_coordinator.cancel_run(run_id)
    deadline = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < deadline and _ids_in(instance, runs, list(ACTIVE)):
        time.sleep(POLL_SECONDS)


def _look_at(instance: dg.DagsterInstance, runs: Sequence[str]) -> tuple[set[str], dict[str, dg.RunRecord]]:
    """The ids of the runs that wait, and the records of those that have begun. Deleted runs are in neither.

    Only ids are read of runs that wait, which may be thousands.
    """
    waiting = set(_ids_in(instance, runs, WAITING))
    begun: dict[str, dg.RunRecord] = {}
    for piece in _pieces([run_id for run_id in runs if run_id not in waiting]):
        records = instance.get_run_records(dg.RunsFilter(run_ids=piece))
        begun.update((record.dagster_run.run_id, record) for record in records)
    return waiting, begun


def _ids_in(instance: dg.DagsterInstance, runs: Sequence[str], statuses: Sequence[dg.DagsterRunStatus]) -> list[str]:
    """The ids of those runs that have one of these statuses."""
    found: list[str] = []
    for piece in _pieces(runs):
        found += instance.get_run_ids(dg.RunsFilter(run_ids=piece, statuses=statuses))
    return found


def _pieces(runs: Sequence[str]) -> Iterator[Sequence[str]]:
    return (runs[start : start + IDS_AT_ONCE] for start in range(0, len(runs), IDS_AT_ONCE))


def _stage(record: dg.RunRecord | None) -> str:
    return "queued" if record is None else record.dagster_run.status.value.lower().replace("_", " ")
