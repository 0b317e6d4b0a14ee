"""`laion-assets load`: the job `load_shards` for a set of shards, one run for each shard: by Dagster's daemon if one
runs, else in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import dagster as dg
from rich.console import Console

from laion_assets.errors import EngineHeldError, StoreError
from laion_assets.health.deleted import left_as_it_is, rows_by_shard
from laion_assets.health.finding import TableLook
from laion_assets.health.findings import look_at_table
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.health.update import chain_steps
from laion_assets.plan.kept_plan import withdraw_plan
from laion_assets.settings import Settings
from laion_assets.shard.store import ShardStore
from laion_assets.shard_numbers import as_ranges
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.interrupts import interrupts, sigterm_as_ctrl_c
from laion_assets.terminal.outcome import Outcome, outcome_table, show_end
from laion_assets.terminal.plan import keep_plan_for
from laion_assets.terminal.runs import STOPPED
from laion_assets.terminal.shard_run import outcome_of, run_shard, shard_job
from laion_assets.terminal.side_by_side import load_side_by_side
from laion_assets.terminal.submitted import cancel, daemon_is_live, follow, runs_under_way, submit_all
from laion_assets.words import counted

NOT_BEGUN = "shards that were not begun are no longer asked for, until the command is given again"


def load(settings: Settings, shards: list[int], instance: dg.DagsterInstance, console: Console, *, again: bool) -> bool:
    """Loads the missing `shards`, continues after a failed one, prints a table; returns whether all are loaded.

    Raises the errors of `load_outcomes`.
    """
    outcomes = load_outcomes(settings, shards, instance, console, again=again)
    console.print(outcome_table(outcomes))
    return not any(outcome.error for outcome in outcomes)


def load_outcomes(
    settings: Settings,
    shards: list[int],
    instance: dg.DagsterInstance,
    console: Console,
    *,
    again: bool,
    parallel: int = 1,
    part: bool = False,
) -> list[Outcome]:
    """Loads the missing `shards`, and continues after a failed one; returns the outcome of each, in their order.

    Dagster's daemon decides how many run at a time. Without a daemon, `parallel` processes work at the same time on a
    server.

    The plan for the missing shards is kept first, in place of the one before, so that `laion-assets status` can compare
    it with what happened. A load of a `part` of the shards, as `parallel` starts them, keeps none: the plan is that of
    the whole load.

    Raises `KeyboardInterrupt` after Ctrl-C or SIGTERM, once the runs have ended. The same call then continues. Until
    then, shards that were not begun are not asked for.
    """
    histories = read_histories(
        instance, settings, [settings.dataset.key_of(shard) for shard in shards], with_errors=False
    )
    found = look_at_table(settings)
    rows_in_table = _rows_in_table(found, histories, by_daemon=daemon_is_live(instance))
    if not part:
        _replace_plan(settings, shards, found)
    todo: dict[int, list[str]] = {}
    outcomes: dict[int, Outcome] = {}
    for shard, history in zip(shards, histories, strict=True):
        rows = rows_in_table.get(shard, 0)
        known = None if isinstance(found, EngineHeldError) else rows
        steps = list(CHAIN) if again else missing_steps(settings, history, known)
        if steps:
            todo[shard] = steps
        else:
            outcomes[shard] = _skipped(history, rows)
    with _withdrawing_plan(settings, console, part=part):
        if todo and daemon_is_live(instance):
            under_way = {} if again else runs_under_way(settings, instance, todo, histories)
            outcomes |= _load_by_daemon(settings, todo, under_way, instance, console, again=again)
            todo = {shard: steps for shard, steps in todo.items() if shard not in outcomes}
        if todo:
            console.print(f"no Dagster daemon runs on {instance.root_directory}: shards are loaded in this process")
            if parallel > 1 and len(todo) > 1:
                outcomes |= load_side_by_side(settings, list(todo), console, processes=parallel, again=again)
            else:
                outcomes |= _load_here(settings, todo, instance, console, again=again)
    return [outcomes[shard] for shard in shards]


def _replace_plan(settings: Settings, shards: list[int], found: TableLook) -> None:
    """Keeps the plan of this load in place of the one before. If nothing is missing, or if a step of the daemon's holds
    the table so that the missing shards are not known, there is none: Dagster knows the runs that are asked for."""
    if isinstance(found, EngineHeldError) or {state.shard for state in found} >= set(shards):
        withdraw_plan(settings)
    else:
        keep_plan_for(settings, shards, found)


@contextlib.contextmanager
def _withdrawing_plan(settings: Settings, console: Console, *, part: bool) -> Iterator[None]:
    """If Ctrl-C or SIGTERM ends the load, its plan does not ask for the other shards any more."""
    try:
        yield
    except KeyboardInterrupt:
        if not part:
            withdraw_plan(settings)
            console.print(NOT_BEGUN, style="yellow")
        raise


def _rows_in_table(found: TableLook, histories: list[ShardHistory], *, by_daemon: bool) -> dict[int, int]:
    """Rows of each partition; by Dagster's records if a step of the daemon's holds the embedded engine.

    Raises `EngineHeldError` if this process must load the shards itself.
    """
    if isinstance(found, EngineHeldError):
        if not by_daemon:
            raise found
        return {history.shard: history.rows for history in histories if history.loaded_at is not None}
    return rows_by_shard(found) or {}


def _load_by_daemon(
    settings: Settings,
    todo: dict[int, list[str]],
    under_way: dict[int, str],
    instance: dg.DagsterInstance,
    console: Console,
    *,
    again: bool,
) -> dict[int, Outcome]:
    """Submits a run for each shard that has none, and follows all runs; returns the outcomes of those that the daemon
    took. Ctrl-C ends the runs that were submitted here."""
    console.print("Dagster's daemon loads the shards: its UI shows the runs; Ctrl-C ends them")
    if under_way:
        console.print(
            f"queued or running already, and only followed: {counted(len(under_way), 'shard')} "
            f"({as_ranges(under_way)}); Ctrl-C does not end them",
            highlight=False,
        )
    outcomes: dict[int, Outcome] = {}
    submitted: dict[int, str] = {}
    with ShardBars(console) as bars, sigterm_as_ctrl_c():
        bars.expect(len(todo))
        try:
            new = {shard: todo[shard] for shard in todo if shard not in under_way}
            submit_all(settings, instance, new, submitted, again=again)
            runs = under_way | submitted
            for shard, run, seconds in follow(settings, instance, runs, bars, ours=submitted):
                outcomes[shard] = (
                    Outcome(shard, 0, seconds, f"run {runs[shard]} was deleted before it had ended")
                    if run is None
                    else outcome_of(settings, instance, shard, run, seconds)
                )
                show_end(settings, bars, outcomes[shard])
        except KeyboardInterrupt:
            cancel(instance, [run_id for shard, run_id in submitted.items() if shard not in outcomes])
            console.print(STOPPED, style="yellow")
            raise
    return outcomes


def _load_here(
    settings: Settings, todo: dict[int, list[str]], instance: dg.DagsterInstance, console: Console, *, again: bool
) -> dict[int, Outcome]:
    """Executes a run for each shard in this process, one after the other."""
    outcomes: dict[int, Outcome] = {}
    with ShardBars(console) as bars, interrupts() as interrupted:
        bars.expect(len(todo))
        job = shard_job(settings, bars.for_step)
        for shard, steps in todo.items():
            outcome = _load_alone(settings, job, shard, steps, instance, again=again)
            if interrupted():
                console.print(STOPPED, style="yellow")
                raise KeyboardInterrupt
            outcomes[shard] = outcome
            show_end(settings, bars, outcome)
    return outcomes


def _load_alone(
    settings: Settings,
    job: dg.JobDefinition,
    shard: int,
    steps: list[str],
    instance: dg.DagsterInstance,
    *,
    again: bool,
) -> Outcome:
    """Runs the missing steps of a shard while no other load on this store works on it. Skips steps done by others."""
    waited: list[str] = []
    with ShardStore.of(settings).at_work_on(shard, "load", say=waited.append):
        if waited and not again:
            histories = read_histories(instance, settings, [settings.dataset.key_of(shard)], with_errors=False)
            rows = _rows_in_table(look_at_table(settings), histories, by_daemon=False).get(shard, 0)
            steps = missing_steps(settings, histories[0], rows)
            if not steps:
                return _skipped(histories[0], rows)
        return run_shard(settings, job, shard, steps, instance, again=again)


def _skipped(history: ShardHistory, rows: int) -> Outcome:
    return Outcome(history.shard, rows, 0.0, skipped=True, left=left_as_it_is(history, rows))


def missing_steps(settings: Settings, history: ShardHistory, rows_in_table: int | None) -> list[str]:
    """The steps of the chain that a shard still needs, in order.

    Empty if Dagster and the table agree that the shard is loaded, its last run succeeded (a run that was killed after
    its load has not checked what it loaded; one that was canceled in the queue has changed nothing), no check has found
    other rows in it since, and the dataset's names still make it the same shard. Empty also if rows were deleted from
    the partition, or accepted. If its rows are not known (None), a failed check does not count: it fails of deleted
    rows, too.

    A shard that is loaded but stale otherwise is left to `laion-assets bring-up-to-date`. If a bucket does not answer,
    all steps are needed: the run of the shard waits and tries again, and other shards are not affected.
    """
    if (
        history.loaded_at is not None
        and rows_in_table in (None, history.rows)
        and not history.ended_early
        and not (history.audit_failed and rows_in_table is not None)
        and not history.moved
    ):
        return []
    try:
        return list(chain_steps(settings, history, rows_in_table))
    except StoreError:
        return list(CHAIN)
