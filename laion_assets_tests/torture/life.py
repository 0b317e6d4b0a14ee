"""Forks a process that loads, indexes and measures what is missing, until it ends or is killed: one life."""

from __future__ import annotations

import faulthandler
import importlib
import io
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
from rich.console import Console

from laion_assets.assets import location
from laion_assets.definitions import build_definitions
from laion_assets.health.keys import BUILD_JOB, LOAD_JOB
from laion_assets.recall import evaluate, kind_run
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.plot import blank_plot
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.settings import Settings
from laion_assets.shard import merge
from laion_assets.table import inserting
from laion_assets.table.schema import PartitionState
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.instance import dagster_instance, make_instance
from laion_assets.terminal.load import load
from laion_assets.terminal.runs import QUIET
from laion_assets_tests.torture import stages
from laion_assets_tests.torture.audit import audit_after_death, audit_after_success
from laion_assets_tests.torture.world import World

READY = "ready"
DONE = "done"
FAULT = "fault "

TELL_TRACES = signal.SIGUSR1
"""The signal that makes a child write the stack trace of each thread."""

BLOCK_ROWS = 50
STATEMENT_ROWS = 100
SEARCHES = 1
"""Small blocks and statements and few searches: each stage has several steps, and no step takes long."""


def warm(world: World) -> None:
    """Imports modules and prepares in the parent, so that no child has to. Opens no engine."""
    # The engine's client imports pandas if it is installed.
    importlib.import_module("pandas")
    merge.BLOCK_ROWS, inserting.STATEMENT_ROWS = BLOCK_ROWS, STATEMENT_ROWS
    setattr(kind_run, "EXACT_SEARCHES", SEARCHES)  # noqa: B010 - kind_run imports it by name
    setattr(evaluate, "plan_for", _few_searches)  # noqa: B010 - mypy would report another type
    location.REPETITIONS, location.FIRST_WAIT_SECONDS = 1, 0.0
    definitions = build_definitions(world.settings(0, over_http=False))
    for job in (LOAD_JOB, BUILD_JOB):
        definitions.resolve_job_def(job)
    figure, _ = blank_plot()
    figure.savefig(io.BytesIO(), format="png")
    make_instance(world.folder / "warm")
    with dagster_instance() as instance:
        dg.materialize([_nothing, _all_is_well], instance=instance, run_config=QUIET)


def _few_searches(_states: Sequence[PartitionState], queries: int) -> RecallPlan:
    return RecallPlan(queries, grid=DEFAULT_GRID[:SEARCHES])


@dg.asset
def _nothing() -> None:
    """Makes Dagster import its storages and run a step."""


@dg.asset_check(asset=_nothing)
def _all_is_well() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def fork(work: Callable[..., None], *arguments: Any) -> tuple[int, int]:
    """Runs `work(*arguments, pipe)` in a child with a separate process group. Returns its pid and the pipe to read.

    The parent must not have opened an engine or started a thread.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    os.setsid()
    os.close(reader)
    nowhere = os.open(os.devnull, os.O_RDWR)
    faulthandler.register(TELL_TRACES, file=writer, all_threads=True)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    try:
        work(*arguments, writer)
    except BaseException:
        say(writer, FAULT + " | ".join(traceback.format_exc().splitlines()[-12:]))
    finally:
        os._exit(0)


def say(pipe: int, line: str) -> None:
    """Writes one line to the watcher."""
    os.write(pipe, (line + "\n").encode())


def live(world: World, version: int, over_http: bool, seed: int, pipe: int) -> None:
    """Checks what the previous life left, loads as `laion-assets load` does, then builds the index and measures it."""
    settings = world.settings(version, over_http=over_http)
    instance = dagster_instance()
    versions, faults = audit_after_death(world, settings, instance)
    if faults:
        say(pipe, FAULT + "; ".join(faults))
        return
    say(pipe, READY)
    stages.arm(pipe)
    console = Console(file=sys.stdout)
    shards = random.Random(seed).sample(world.shards, len(world.shards))
    stale = [shard for shard in shards if versions.get(shard, version) != version]
    rest = [shard for shard in shards if shard not in stale]
    loaded = not stale or load(settings, stale, instance, console, again=True)
    loaded = (not rest or load(settings, rest, instance, console, again=False)) and loaded
    measured = loaded and build_and_measure(settings, instance, console)
    say(pipe, DONE if measured else f"{FAULT}the load did not end well: {_reasons(settings, instance)}")


def judge(world: World, version: int, pipe: int) -> None:
    """Reports whether everything is right after a completed load."""
    settings = world.settings(version, over_http=False)
    faults = audit_after_success(world, settings, dagster_instance(), version)
    say(pipe, FAULT + "; ".join(faults) if faults else DONE)


def _reasons(settings: Settings, instance: Any) -> str:
    from laion_assets.health.history import read_histories

    histories = read_histories(instance, settings)
    return "; ".join(f"{history.key} {history.state} {history.error}" for history in histories)
