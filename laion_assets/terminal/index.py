"""Runs the job `build_index` in this process, and shows the recall that it measured, or the last report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import dagster as dg
from dagster import DagsterEventType
from rich.console import Console
from rich.table import Table

from laion_assets.definitions import build_definitions
from laion_assets.errors import TableError
from laion_assets.health.keys import BUILD_JOB, asset_key, job_name, measured_assets
from laion_assets.health.runs import failure_reason
from laion_assets.index.nodes import require_whole_index
from laion_assets.recall.compare import have_other_targets, kept_evaluations
from laion_assets.recall.figures import Evaluation
from laion_assets.recall.judge import meets_target
from laion_assets.recall.kept_report import named_settings
from laion_assets.recall.methods_report import HEAD, methods_rows
from laion_assets.recall.report import milliseconds
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.terminal.bars import ShardBars
from laion_assets.terminal.runs import STOPPED, execute_here


def build_and_measure(settings: Settings, instance: dg.DagsterInstance, console: Console) -> list[Evaluation]:
    """Builds missing indexes, measures their recall, prints it; returns the evaluations, of which there are none if
    something failed. Whether they meet their targets is said by `targets_are_met`.

    If nothing has changed since the last report, it says so and shows that report. Raises `KeyboardInterrupt` if
    Ctrl-C, SIGTERM or *Terminate* in the UI ended the run. Partitions that were indexed before keep their indexes.
    """
    current = current_report(settings, instance)
    if current is not None:
        found, measured_at = current
        when = datetime.fromtimestamp(measured_at).astimezone().strftime("%Y-%m-%d %H:%M")
        console.print(f"index and recall are those that were built and measured at {when}: nothing has changed since")
        kept = kept_evaluations(settings)
        _print_measured(found, kept, console)
        return kept
    with ShardBars(console) as bars:
        job = build_definitions(settings, bars.for_step).resolve_job_def(job_name(settings, BUILD_JOB))
        run = execute_here(job, instance)
    if run.status == dg.DagsterRunStatus.CANCELED:
        console.print(STOPPED, style="yellow")
        raise KeyboardInterrupt
    measured = kept_evaluations(settings)
    if not run.is_success or not measured:
        console.print(f"failed: {failure_reason(instance, run.run_id)}", style="red", markup=False)
        return []
    _print_measured(measured[0], measured, console)
    return measured


def _print_measured(evaluation: Evaluation, compared: Sequence[Evaluation], console: Console) -> None:
    """Prints the report, and a comparison of the methods if several were measured."""
    console.print(recall_table(evaluation))
    if len(compared) > 1:
        console.print(methods_table(compared))


def current_report(settings: Settings, instance: dg.DagsterInstance) -> tuple[Evaluation, float] | None:
    """The last evaluation and its Unix time, if it still holds: the same partitions, none loaded since, all in the
    graphs and cells that LAION_INDEX asks for, and the same targets. Otherwise None. Raises `TableError`."""
    kept = kept_evaluations(settings)
    loads = instance.get_latest_storage_id_by_partition(
        asset_key(settings, "clickhouse_partition"), DagsterEventType.ASSET_MATERIALIZATION
    )
    loaded = [event for key, event in loads.items() if key in set(settings.dataset.shard_keys)]
    *built, report = (
        next(iter(instance.fetch_materializations(asset_key(settings, asset), limit=1).records), None)
        for asset in (*measured_assets(settings), "recall_report")
    )
    if not kept or not loaded or report is None or have_other_targets(settings):
        return None
    if not all(one is not None and max(loaded) < one.storage_id < report.storage_id for one in built):
        return None
    with connect(settings) as db:
        return (kept[0], report.timestamp) if _are_current(kept, db) else None


def _are_current(kept: Sequence[Evaluation], db: Database) -> bool:
    """Whether graphs and cells, where LAION_INDEX asks for them, have every loaded shard and are those that were
    measured."""
    settings, methods = db.settings, {one.method for one in kept}
    named = named_settings(settings, db)
    if "vector_index" in measured_assets(settings):
        try:
            require_whole_index(db)
        except TableError:
            return False
        if "graph" not in methods or named.ignored is not None:
            return False
    if not settings.builds_cells:
        return True
    # Settings are named for cells only if every loaded shard is in them, as it was loaded last.
    return "codes" in methods and methods - {"graph"} <= named.cells.keys()


def recall_table(evaluation: Evaluation) -> Table:
    """The recall at the chosen search settings, a row for each kind of query; red if the target is not met."""
    table = Table(
        "query",
        "search",
        "target",
        "recall@10 (95 % interval)",
        "index ms",
        "cold ms",
        "exact ms",
        title=f"recall of the index ({evaluation.index}) against exact search, {evaluation.rows:,} rows",
    )
    for kind in evaluation.kinds:
        chosen = evaluation.chosen(kind.kind)
        style = "green" if meets_target(evaluation, kind.kind) else "red"
        table.add_row(
            kind.kind.replace("_", " "),
            str(chosen.search),
            f"{evaluation.target_of(kind.kind):g}",
            f"[{style}]{chosen.at_10}",
            f"{chosen.latency.p50:.1f}",
            milliseconds(kind.cold_ms),
            f"{kind.exact.p50:.1f}",
        )
    return table


def methods_table(evaluations: Sequence[Evaluation]) -> Table:
    """Exact search and every built method on the same queries, a row for each method and kind."""
    table = Table(*HEAD, title=f"methods on the same queries, {evaluations[0].rows:,} rows")
    for row in methods_rows(evaluations):
        table.add_row(*row)
    return table
