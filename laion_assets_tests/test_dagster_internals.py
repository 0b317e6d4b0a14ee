"""Tests that only one room imports Dagster's private names, and that these names still behave as the room expects.

If a version of Dagster fails here, check that room before pyproject.toml allows the version.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions import data_version
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus
from dagster._core.storage import tags
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES, NOT_FINISHED_STATUSES
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from laion_assets.automation.queue import PriorityRunCoordinator
from laion_assets.dagster_internals import backfills, executing, launching, names, records, types
from laion_assets.execution.executor import PoolSlots, WatchedExecutor
from laion_assets.health.runs import ACTIVE
from laion_assets_tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "laion_assets"
ROOM = PACKAGE / "dagster_internals"
MODULES = (backfills, executing, launching, records, types)


def private_imports(path: Path) -> list[str]:
    """The private modules of Dagster, with `_` in their names, that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        named += [name.name for name in node.names] if isinstance(node, ast.Import) else []
        found += [
            name
            for name in named
            if name.startswith("dagster") and any(part.startswith("_") for part in name.split("."))
        ]
    return found


def exported(module: ModuleType) -> dict[str, Any]:
    """The names that a module of the room exports, with their values."""
    return {name: getattr(module, name) for name in module.__all__}


def test_no_other_room_imports_what_dagster_keeps_to_itself() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path.parent != ROOM]
    assert {str(path): private for path in others if (private := private_imports(path))} == {}
    assert len([private for path in ROOM.glob("*.py") for private in private_imports(path)]) > 20


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.split(".")[-1])
def test_every_name_is_used_and_has_no_public_one(module: ModuleType) -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py") if path.parent != ROOM)
    public = [getattr(dg, name) for name in dir(dg) if not name.startswith("_")]
    for name, found in exported(module).items():
        assert name in sources, f"nothing uses {name}"
        assert not any(found is one for one in public), f"{name} is public now: take it from dagster"


def test_words_are_those_of_dagsters_storage() -> None:
    assert names.PARTITION_TAG == tags.PARTITION_NAME_TAG
    assert names.PRIORITY_TAG == tags.PRIORITY_TAG
    assert names.BACKFILL_TAG == tags.BACKFILL_ID_TAG
    assert names.KIND_PREFIX == tags.KIND_PREFIX
    assert names.CODE_VERSION_TAG == data_version.CODE_VERSION_TAG
    assert names.DATA_VERSION_TAG == data_version.DATA_VERSION_TAG
    assert names.DATA_VERSION_IS_USER_PROVIDED_TAG == data_version.DATA_VERSION_IS_USER_PROVIDED_TAG
    assert f"{data_version.INPUT_DATA_VERSION_TAG_PREFIX}/" == names.INPUT_DATA_VERSION_PREFIX
    assert QueuedRunCoordinatorDaemon.daemon_type() == names.QUEUE_DAEMON


def test_a_run_that_has_not_ended_has_one_of_these_states() -> None:
    """Dagster also has the state SUSPENDED, but open-source Dagster gives it to no run."""
    assert {state.name for state in NOT_FINISHED_STATUSES} - {"SUSPENDED"} == {state.name for state in ACTIVE}
    assert set(IN_PROGRESS_RUN_STATUSES) <= {*ACTIVE, *NOT_FINISHED_STATUSES}


def test_the_state_of_a_schedule_is_told_by_its_word() -> None:
    assert InstigatorStatus.RUNNING.value == "RUNNING"
    assert {"instigator_name", "status"} <= {name for name, _ in inspect.getmembers(InstigatorState)} | set(
        inspect.signature(InstigatorState.__new__).parameters
    )


TAKES: list[tuple[Any, tuple[str, ...]]] = [
    (
        executing.PlanExecutionContextManager,
        (
            *("job", "retry_mode", "execution_plan", "run_config", "dagster_run", "instance", "raise_on_error"),
            *("output_capture", "step_dependency_config"),
        ),
    ),
    (executing.ExecuteRunWithPlanIterable, ("execution_plan", "iterator", "execution_context_manager")),
    (executing.inner_plan_execution_iterator, ("job_context", "execution_plan", "instance_concurrency_context")),
    (executing.InstanceConcurrencyContext, ("instance", "dagster_run")),
    (executing.InProcessExecutor.execute, ("plan_context", "execution_plan")),
    (executing.EngineEventData.in_process, ("pid", "step_keys_to_execute")),
    (launching.execute_run_iterator, ("job", "dagster_run", "instance")),
    (launching.RemoteJobOrigin, ("repository_origin", "job_name")),
    (launching.RemoteRepositoryOrigin, ("code_location_origin", "repository_name")),
    (launching.ManagedGrpcPythonEnvCodeLocationOrigin, ("loadable_target_origin", "location_name")),
    (launching.JobPythonOrigin, ("job_name", "repository_origin")),
    (launching.RepositoryPythonOrigin, ("executable_path", "code_pointer", "entry_point")),
    (launching.ModuleCodePointer, ("module", "fn_name", "working_directory")),
    (launching.LoadableTargetOrigin, ("executable_path", "module_name")),
    (backfills.AssetGraphSubset.from_asset_partition_set, ("asset_partitions_set", "asset_graph")),
    (
        backfills.PartitionBackfill.from_asset_graph_subset,
        (
            *("backfill_id", "backfill_timestamp", "tags", "dynamic_partitions_store", "asset_graph_subset"),
            *("title", "description", "run_config"),
        ),
    ),
    (backfills.BulkActionsFilter, ("statuses",)),
    (records.PartitionKeyFilter, ("key",)),
    (records.AssetCheckEvaluationTargetMaterializationData, ("storage_id", "run_id", "timestamp")),
    (SqlEventLogStorage.assign_pending_steps, ("concurrency_keys",)),
    (SqlEventLogStorage.get_event_records, ("event_records_filter", "limit", "ascending")),
    (SqlEventLogStorage.get_asset_check_partition_info, ("keys",)),
    (
        SqlEventLogStorage.get_asset_check_execution_history,
        ("check_key", "limit", "cursor", "status", "partition_filter"),
    ),
    (dg.DagsterInstance.create_run_for_job, ("run_config", "asset_selection", "remote_job_origin", "job_code_origin")),
]


@pytest.mark.parametrize(("called", "given"), TAKES, ids=lambda one: getattr(one, "__qualname__", ""))
def test_it_takes_what_it_is_given_and_needs_no_more(called: Any, given: tuple[str, ...]) -> None:
    parameters = inspect.signature(called).parameters
    if "kwargs" in parameters:  # one of Dagster's records, whose annotations name its parameters
        assert set(given) <= {name for one in called.__mro__ for name in getattr(one, "__annotations__", {})}
        return
    assert set(given) <= set(parameters)
    needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
    assert needed - {"self", "cls", "job_def"} <= set(given)


def test_what_is_overridden_is_called_by_dagster() -> None:
    overridden = (
        (WatchedExecutor, executing.InProcessExecutor, "execute"),
        (PoolSlots, executing.InstanceConcurrencyContext, "interval_to_next_pending_claim_check"),
        (PriorityRunCoordinator, dg.QueuedRunCoordinator, "get_run_queue_config"),
        (PriorityRunCoordinator, dg.QueuedRunCoordinator, "submit_run"),
    )
    for ours, theirs, method in overridden:
        assert list(inspect.signature(getattr(ours, method)).parameters) == list(
            inspect.signature(getattr(theirs, method)).parameters
        )
    loop = inspect.getsource(importlib.import_module("dagster._core.execution.plan.active"))
    assert "interval_to_next_pending_claim_check()" in loop, "a wait for a pool asks it for its length"
    source = inspect.getsource(executing.InstanceConcurrencyContext)
    assert "_pending_claims" in source
    assert "_pending_timeouts" in source
    assert "should_block_op_concurrency_limited_runs" in types.RunQueueConfig._fields


def test_a_step_can_be_told_of_a_newer_version_of_its_input() -> None:
    context = importlib.import_module("dagster._core.execution.context.system").StepExecutionContext
    assert callable(context.fetch_external_input_asset_version_info)
