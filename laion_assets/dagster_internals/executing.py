"""The classes that an executor of steps needs. `dg.executor` is public, but these classes are not.

Dagster's own in-process executor cannot be used unchanged: a run that waits for a pool takes a whole core and does not
react to interrupts (execution/executor.py).
"""

from __future__ import annotations

from dagster._core.definitions.executor_definition import IN_PROC_CONFIG
from dagster._core.events import EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.context.system import PlanExecutionContext, PlanOrchestrationContext
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.execute_plan import inner_plan_execution_iterator
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor
from dagster._utils.interrupts import pop_captured_interrupt

__all__ = [
    "IN_PROC_CONFIG",
    "EngineEventData",
    "ExecuteRunWithPlanIterable",
    "ExecutionPlan",
    "InProcessExecutor",
    "InstanceConcurrencyContext",
    "PlanExecutionContext",
    "PlanExecutionContextManager",
    "PlanOrchestrationContext",
    "RetryMode",
    "inner_plan_execution_iterator",
    "pop_captured_interrupt",
]
