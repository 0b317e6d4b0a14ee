"""Runs the job `build_index` in this process, and shows the recall that it measured."""

from __future__ import annotations

import dagster as dg
from rich.console import Console
from rich.table import Table

from laion_assets.automation.jobs import build_index
from laion_assets.definitions import build_definitions
from laion_assets.health.history import failure_reason
from laion_assets.recall.figures import Evaluation, read_evaluation, recall_folder
from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.instance import process_tag
from laion_assets.terminal.load import QUIET


def build_and_measure(settings: Settings, instance: dg.DagsterInstance, console: Console) -> bool:
    """Builds what is missing of the indexes, measures their recall, prints it; whether that went well."""
    with ShardBars(console) as bars:
        job = build_definitions(settings, bars.for_step).resolve_job_def(build_index.name)
        result = job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False, tags=process_tag())
    evaluation = read_evaluation(recall_folder(settings))
    if not result.success or evaluation is None:
        console.print(f"failed: {failure_reason(instance, result.run_id)}", style="red", markup=False)
        return False
    console.print(recall_table(evaluation))
    return True


def recall_table(evaluation: Evaluation) -> Table:
    """What the index finds, a row a kind of query, at the cheapest search settings that meet the target."""
    table = Table(
        "query",
        "search",
        "recall@10",
        "index ms",
        "exact ms",
        title=f"recall of the index ({evaluation.index}) against exact search, {evaluation.rows:,} rows",
    )
    for kind in evaluation.kinds:
        chosen = evaluation.chosen(kind.kind)
        style = "green" if evaluation.meets_target(kind.kind) else "red"
        table.add_row(
            kind.kind.replace("_", " "),
            str(chosen.search),
            f"[{style}]{chosen.at_10.mean:.3f}",
            f"{chosen.latency.p50 * 1000:.1f}" if chosen.latency.p50 < 1 else f"{chosen.latency.p50:.1f}",
            f"{kind.exact.p50 * 1000:.1f}" if kind.exact.p50 < 1 else f"{kind.exact.p50:.1f}",
        )
    return table
