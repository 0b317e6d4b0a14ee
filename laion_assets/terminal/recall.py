"""`laion-assets recall`: shows the last report of recall, or measures recall again. It builds nothing."""

from __future__ import annotations

from dataclasses import asdict

import dagster as dg
from rich.console import Console

from laion_assets.definitions import build_definitions
from laion_assets.errors import TableError
from laion_assets.health.keys import BUILD_JOB, job_name
from laion_assets.health.runs import failure_reason
from laion_assets.recall.compare import kept_evaluations, targets_are_met
from laion_assets.recall.figures import Evaluation
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.index import methods_table, recall_table
from laion_assets.terminal.runs import STOPPED, execute_here


def kept_evaluation(settings: Settings) -> Evaluation:
    """The last report. Raises `TableError` if there is none."""
    found = kept_evaluations(settings)
    evaluation = found[0] if found else None
    if evaluation is None:
        raise TableError(
            f"recall of dataset {settings.dataset.name}",
            found="no report",
            expected="one that was measured",
            advice="`laion-assets index` builds the indexes and measures, `recall --measure` measures alone",
        )
    return evaluation


def measure(settings: Settings, instance: dg.DagsterInstance, console: Console) -> bool:
    """Measures the existing indexes, as the asset `recall_report` does; returns whether it succeeded.

    Raises `KeyboardInterrupt` if Ctrl-C, SIGTERM or *Terminate* in the UI ended the run.
    """
    with ShardBars(console) as bars:
        job = build_definitions(settings, bars.for_step).resolve_job_def(job_name(settings, BUILD_JOB))
        run = execute_here(job, instance, assets=["recall_report"])
    if run.status == dg.DagsterRunStatus.CANCELED:
        console.print(STOPPED, style="yellow")
        raise KeyboardInterrupt
    if not run.is_success:
        console.print(f"failed: {failure_reason(instance, run.run_id)}", style="red", markup=False)
    return run.is_success


def evaluation_json(settings: Settings, evaluation: Evaluation) -> dict[str, object]:
    """The report as a JSON object; `methods` has the reports of the other methods by name."""
    more = {one.method: asdict(one) for one in kept_evaluations(settings) if one.method != evaluation.method}
    return {**asdict(evaluation), "methods": more}


def print_recall(settings: Settings, evaluation: Evaluation, console: Console) -> bool:
    """Prints the report as a table, and a comparison of the methods if several were measured. Returns whether every
    kind of query meets its target with one of them."""
    console.print(recall_table(evaluation))
    compared = kept_evaluations(settings) or [evaluation]
    if len(compared) > 1:
        console.print(methods_table(compared))
    return targets_are_met(compared)
