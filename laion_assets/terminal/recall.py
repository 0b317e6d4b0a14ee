"""`laion-assets recall`: shows what the index finds of the true neighbours, or measures it again. It builds nothing."""

from __future__ import annotations

from dataclasses import asdict

import dagster as dg
from rich.console import Console

from laion_assets.definitions import build_definitions
from laion_assets.errors import TableError
from laion_assets.health.keys import BUILD_JOB, job_name
from laion_assets.health.runs import failure_reason
from laion_assets.recall.figures import Evaluation, read_evaluation, recall_folder
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.index import recall_table
from laion_assets.terminal.runs import execute_here


def kept_evaluation(settings: Settings) -> Evaluation:
    """The last report. Raises `TableError` where none was made."""
    evaluation = read_evaluation(recall_folder(settings))
    if evaluation is None:
        raise TableError(
            f"recall of dataset {settings.dataset.name}",
            found="no report",
            expected="one that was measured",
            advice="`laion-assets index` builds the indexes and measures, `recall --measure` measures alone",
        )
    return evaluation


def measure(settings: Settings, instance: dg.DagsterInstance, console: Console) -> bool:
    """Measures the indexes that there are, as the asset `recall_report` does; whether that went well."""
    with ShardBars(console) as bars:
        job = build_definitions(settings, bars.for_step).resolve_job_def(job_name(settings, BUILD_JOB))
        run = execute_here(job, instance, assets=["recall_report"])
    if not run.is_success:
        console.print(f"failed: {failure_reason(instance, run.run_id)}", style="red", markup=False)
    return run.is_success


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """The report for machines."""
    return asdict(evaluation)


def print_recall(evaluation: Evaluation, console: Console) -> bool:
    """The report as a table; whether every kind of query meets its target."""
    console.print(recall_table(evaluation))
    return all(evaluation.meets_target(kind.kind) for kind in evaluation.kinds)
