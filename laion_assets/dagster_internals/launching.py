"""Runs that a command creates and executes itself, with the code location named in them as the UI names it, and what a
run launcher tells of a run's process.

`dg.execute_job` creates a run without its code location: the UI can neither execute it again nor terminate it.
"""

from __future__ import annotations

from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.origin import DEFAULT_DAGSTER_ENTRY_POINT, JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._utils.interrupts import capture_interrupts

__all__ = [
    "DEFAULT_DAGSTER_ENTRY_POINT",
    "CheckRunHealthResult",
    "InMemoryJob",
    "JobPythonOrigin",
    "LoadableTargetOrigin",
    "ManagedGrpcPythonEnvCodeLocationOrigin",
    "ModuleCodePointer",
    "RemoteJobOrigin",
    "RemoteRepositoryOrigin",
    "RepositoryPythonOrigin",
    "WorkerStatus",
    "capture_interrupts",
    "execute_run_iterator",
]
