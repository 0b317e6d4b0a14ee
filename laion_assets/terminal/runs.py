"""Runs of our jobs that a command asks for: created as Dagster's UI creates them, and executed in this process.

The code location is named in them, so the UI shows them like its own runs: users can terminate and repeat them there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import dagster as dg

from laion_assets.dagster_internals.launching import (
    DEFAULT_DAGSTER_ENTRY_POINT,
    InMemoryJob,
    JobPythonOrigin,
    LoadableTargetOrigin,
    ManagedGrpcPythonEnvCodeLocationOrigin,
    ModuleCodePointer,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
    RepositoryPythonOrigin,
    capture_interrupts,
    execute_run_iterator,
)
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.terminal.instance import process_tag, settling_dead_runs

LOCATION = "laion_assets"
"""The code location's name in workspace.yaml."""

MODULE = "laion_assets.definitions"
REPOSITORY = "__repository__"
"""Dagster's name for the repository of a module's `Definitions`."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Dagster's console log would break the progress bars. The events are in the instance, and the UI shows them."""

STOPPED = "stopped: the same command continues from there"


def make_run(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    assets: Sequence[str] = (),
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.DagsterRun:
    """A run of the job, not started: of these assets (by name) or of all, for one partition if the job has any."""
    partition = {} if key is None else {PARTITION_TAG: key}
    selected = {each for each in job.asset_layer.selected_asset_keys if each.path[-1] in assets}
    return instance.create_run_for_job(
        job,
        run_config=QUIET,
        tags={**job.tags, **partition, **(tags or {})},
        asset_selection=selected or None,
        remote_job_origin=RemoteJobOrigin(_repository(), job.name),
        job_code_origin=JobPythonOrigin(job.name, _code()),
    )


def execute_here(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    assets: Sequence[str] = (),
    key: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.DagsterRun:
    """Creates such a run and executes it in this process; returns the run as it ended."""
    run = make_run(job, instance, assets=assets, key=key, tags=process_tag() | dict(tags or {}))
    subset = job.get_subset(asset_selection=run.asset_selection) if run.asset_selection else job
    with capture_interrupts(), settling_dead_runs(instance):
        for _ in execute_run_iterator(InMemoryJob(subset), run, instance):
            pass
    ended = instance.get_run_by_id(run.run_id)
    return run if ended is None else ended


def _repository() -> RemoteRepositoryOrigin:
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    return RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), REPOSITORY)


def _code() -> RepositoryPythonOrigin:
    """Where a process that is started for the run finds the jobs."""
    return RepositoryPythonOrigin(
        executable_path=sys.executable,
        code_pointer=ModuleCodePointer(MODULE, "defs", working_directory=None),
        entry_point=DEFAULT_DAGSTER_ENTRY_POINT,
    )
