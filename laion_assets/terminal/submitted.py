"""Runs that a command gives to Dagster's daemon: submitted to its queue, followed to their end, canceled on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

import dagster as dg

from laion_assets.assets.location import SETTINGS_TAG, settings_digest
from laion_assets.automation.queue import BULK, PERSON
from laion_assets.dagster_internals.names import PRIORITY_TAG, QUEUE_DAEMON
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.instance import submitter_tag
from laion_assets.terminal.runs import make_run

LIVE_SECONDS = 75.0
"""A daemon writes a heartbeat every 30 s. After twice that time without a heartbeat it counts as gone."""

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
) -> str:
    """Queues a run for the daemon; its id. The run fails if the code location's settings differ from this process's."""
    tags = {SETTINGS_TAG: settings_digest(settings), PRIORITY_TAG: str(BULK if bulk else PERSON), **submitter_tag()}
    run = make_run(job, instance, assets=assets, key=settings.dataset.key_of(shard), tags=tags)
    instance.submit_run(run.run_id, workspace=None)  # type: ignore[arg-type]  # a queue needs none
    return run.run_id


def follow(
    settings: Settings, instance: dg.DagsterInstance, runs: Mapping[int, str], bars: ShardBars
) -> Iterator[tuple[int, dg.DagsterRun, float]]:
    """Yields each shard with its run and its seconds, when the run ends.

    If the daemon is gone and no run is active, the other runs are removed from the queue, and this ends early. Raises
    `KeyboardInterrupt` also on SIGTERM.
    """
    left = dict(runs)
    shown: dict[int, str] = {}
    with _sigterm_as_ctrl_c():
        while left:
            records = instance.get_run_records(dg.RunsFilter(run_ids=list(left.values())))
            by_id = {record.dagster_run.run_id: record for record in records}
            for shard, run_id in list(left.items()):
                record = by_id.get(run_id)
                if record is None or record.dagster_run.is_finished:
                    del left[shard]
                    if record is not None:
                        took = (record.end_time or 0.0) - (record.start_time or record.end_time or 0.0)
                        yield shard, record.dagster_run, took
                elif shown.get(shard) != (stage := record.dagster_run.status.value.lower().replace("_", " ")):
                    shown[shard] = stage
                    bars.bar(settings.dataset.key_of(shard)).begin(stage)
            waiting = [run_id for run_id in left.values() if _is_queued(by_id[run_id].dagster_run)]
            if left and len(waiting) == len(left) and not daemon_is_live(instance):
                cancel(instance, waiting)
                return
            time.sleep(POLL_SECONDS)


def cancel(instance: dg.DagsterInstance, runs: Sequence[str]) -> None:
    """Cancels runs, queued ones first, and waits until the active ones have ended, up to `CANCEL_SECONDS`."""
    records = instance.get_run_records(dg.RunsFilter(run_ids=list(runs))) if runs else []
    for record in sorted(records, key=lambda record: not _is_queued(record.dagster_run)):
        if not record.dagster_run.is_finished:
            with contextlib.suppress(Exception):
                instance.run_coordinator.cancel_run(record.dagster_run.run_id)
    deadline = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < deadline:
        records = instance.get_run_records(dg.RunsFilter(run_ids=list(runs))) if runs else []
        if all(record.dagster_run.is_finished for record in records):
            return
        time.sleep(POLL_SECONDS)


def _is_queued(run: dg.DagsterRun) -> bool:
    return run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
