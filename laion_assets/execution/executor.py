"""The executor of our runs: Dagster's, which executes steps in the run's process, with a watch over that process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg

from laion_assets.dagster_internals.executing import (
    IN_PROC_CONFIG,
    EngineEventData,
    ExecuteRunWithPlanIterable,
    ExecutionPlan,
    InProcessExecutor,
    InstanceConcurrencyContext,
    PlanExecutionContext,
    PlanExecutionContextManager,
    PlanOrchestrationContext,
    RetryMode,
    inner_plan_execution_iterator,
    pop_captured_interrupt,
)
from laion_assets.execution.termination import RunWatch
from laion_assets.execution.worker import sign

WAIT_SECONDS = 0.25
"""A run that waits for a pool checks at this interval whether it was told to end."""


class WatchedExecutor(InProcessExecutor):
    """Executes steps one after the other in the run's process. The process ends when its run ends."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """The events of the run's steps."""
        manager = PlanExecutionContextManager(
            job=plan_context.job,
            retry_mode=plan_context.retry_mode,
            execution_plan=execution_plan,
            run_config=plan_context.run_config,
            dagster_run=plan_context.dagster_run,
            instance=plan_context.instance,
            raise_on_error=plan_context.raise_on_error,
            output_capture=plan_context.output_capture,
            step_dependency_config=self.step_dependency_config,
        )
        sign(plan_context.instance, plan_context.dagster_run)
        events = ExecuteRunWithPlanIterable(
            execution_plan=execution_plan, iterator=_events, execution_context_manager=manager
        )
        yield dg.DagsterEvent.engine_event(
            plan_context,
            f"Executing steps in process (pid: {os.getpid()})",
            event_specific_data=EngineEventData.in_process(os.getpid(), execution_plan.step_keys_to_execute),
        )
        with RunWatch(plan_context.instance, plan_context.dagster_run) as watch:
            for event in events:
                if event.event_type == dg.DagsterEventType.STEP_START:
                    watch.in_step = True
                elif event.is_step_success or event.is_step_failure or event.is_step_up_for_retry:
                    watch.in_step = False
                yield event


class PoolSlots(InstanceConcurrencyContext):
    """The places that a run's steps take in pools.

    Dagster's own class sleeps for the lesser of 0 and the time to its next check, so it does not sleep: a run that
    waited for a pool took a whole core (1.13.27), and did not react to an interrupt before it had its place.
    """

    def interval_to_next_pending_claim_check(self) -> float:
        """Seconds to sleep. Raises `DagsterExecutionInterruptedError` where the run was told to end."""
        if pop_captured_interrupt():
            raise dg.DagsterExecutionInterruptedError("The run was told to end while it waited for a pool.")
        if not self._pending_claims:
            return 0.0
        next_look = min((at - time.time() for at in self._pending_timeouts.values()), default=0.0)
        return min(WAIT_SECONDS, max(0.01, next_look))


def _events(job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Iterator[dg.DagsterEvent]:
    with PoolSlots(job_context.instance, job_context.dagster_run) as slots:
        yield from _shielding_children_from_ctrl_c(inner_plan_execution_iterator(job_context, execution_plan, slots))


def _shielding_children_from_ctrl_c(events: Iterator[dg.DagsterEvent]) -> Iterator[dg.DagsterEvent]:
    """The same events. Until the first event Ctrl-C is not sent to the processes that are started.

    These processes copy the log of the steps to the terminal and end when this process ends. Ctrl-C goes to all
    processes of a terminal, and each of them printed a traceback (1.13.27). A Ctrl-C during this time is handled right
    after it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        first = next(events, None)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if first is not None:
        yield first
        yield from events


@dg.executor(name="in_process", config_schema=IN_PROC_CONFIG)
def watched_executor(context: dg.InitExecutorContext) -> WatchedExecutor:
    """One process for all steps costs 1 s for each shard; one process for each step would cost 9 to 11 s."""
    retries: Any = context.executor_config["retries"]
    return WatchedExecutor(RetryMode.from_config(retries) or RetryMode.ENABLED)
