"""`recall_report`: compares index search with exact search; checks that recall and speed of the index suffice."""

from collections.abc import Sequence
from dataclasses import replace

import dagster as dg

from laion_assets.assets.location import CodeLocation, Metadata, asset, asset_check, failing_clearly
from laion_assets.automation.milestones import report_condition
from laion_assets.health.facts import build_core_seconds
from laion_assets.health.keys import measured_assets
from laion_assets.health.loaded_since import LOADED_SINCE, loaded_since
from laion_assets.machine import StepMeter
from laion_assets.recall.compare import best_by_kind, compare, kept_evaluations
from laion_assets.recall.figures import Evaluation, recall_folder, save_evaluations
from laion_assets.recall.judge import meets_target
from laion_assets.recall.methods_report import methods_markdown, methods_plot
from laion_assets.recall.plot import inline_image, recall_plot
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.report import recall_markdown
from laion_assets.settings import Settings
from laion_assets.shard.files import replacing
from laion_assets.shard_numbers import as_ranges
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions

SMALL_ROWS = 100_000
"""With fewer rows than this an exact search takes a few milliseconds, and an index cannot be faster."""


def recall_report_asset(location: CodeLocation, plan: RecallPlan | None = None) -> dg.AssetsDefinition:
    """The asset. `plan` names queries and search settings; the default plan depends on the table's size."""

    @asset(
        location,
        "recall_report",
        group="search",
        kinds={"clickhouse", "matplotlib"},
        deps=measured_assets(location.settings),
        touches_table=True,
        automation_condition=report_condition(),
        description="Recall and latency of the index against an exact search of the same rows. Recall@10 and @100, "
        "ties counted, with its interval: image→image, text→text, text→image, image→text by queries that "
        "the measured graphs have not seen, and rows of the table as the option --like asks them. It "
        "names the fastest search settings that meet LAION_RECALL_TARGET; the command laion-assets "
        "search uses them while the table has this index.",
    )
    def recall_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        folder = recall_folder(location.settings)
        with failing_clearly(), StepMeter() as meter:
            progress = location.progress(context)
            progress.begin("recall")
            with connect(location.settings) as db:
                # Each line is shown as a stage, in Dagster's log or at a terminal.
                since = loaded_since(context.instance, location.settings, *measured_assets(location.settings))
                later = since & {state.shard for state in partitions(db)}
                measured = compare(db, plan, leaving_out=later, log=progress.begin)
            evaluations = [_with_build(context.instance, location.settings, one) for one in measured]
            evaluation = evaluations[0]
            picture, methods = recall_plot(evaluation), methods_plot(evaluations)
            with replacing(folder / "recall.png", subject="recall.png") as temporary:
                temporary.write_bytes(picture)
            with replacing(folder / "methods.png", subject="methods.png") as temporary:
                temporary.write_bytes(methods)
            save_evaluations(evaluations, folder)
        metadata = _metadata(evaluation) | meter.metadata() | {LOADED_SINCE: as_ranges(later)}
        metadata["report"] = dg.MetadataValue.md(
            recall_markdown(evaluation, inline_image(picture, "recall against latency"))
        )
        compared = "\n\n".join([methods_markdown(evaluations), inline_image(methods, "methods compared")])
        metadata["methods"] = dg.MetadataValue.md(compared)
        metadata["plot"] = dg.MetadataValue.path(folder / "recall.png")
        return dg.MaterializeResult(metadata=metadata)

    return recall_report


def recall_report_checks(location: CodeLocation) -> Sequence[dg.AssetChecksDefinition]:
    """Checks on the last report."""

    @asset_check(
        location,
        "recall_report",
        "recall_meets_target",
        description="For each kind of query the lower bound of recall@10 (bootstrap, 95 %) reaches its target: "
        "LAION_RECALL_TARGET, or that of the kind in LAION_RECALL_TARGETS, by one of the methods that LAION_INDEX "
        "builds.",
    )
    def recall_meets_target() -> dg.AssetCheckResult:
        evaluations = kept_evaluations(location.settings)
        if not evaluations:
            return _no_report()
        best = best_by_kind(evaluations)
        recalls = {kind: found.chosen(kind).at_10 for kind, found in best.items()}
        low = [
            f"{kind}: recall@10 {recalls[kind]} by {found.method}, where a lower bound of {found.target_of(kind):g} is "
            "wanted"
            for kind, found in best.items()
            if not meets_target(found, kind)
        ]
        bounds = {f"{kind}_low": recall.low for kind, recall in recalls.items()}
        return dg.AssetCheckResult(
            passed=not low,
            description="; ".join(low) or None,
            metadata={kind: recall.mean for kind, recall in recalls.items()} | bounds,
        )

    @asset_check(
        location,
        "recall_report",
        "index_beats_scan",
        description="Searching with the chosen settings is faster than an exact search, for each kind of query. Below "
        f"{SMALL_ROWS:,} rows a scan is as fast, so slower searches are only a warning.",
    )
    def index_beats_scan() -> dg.AssetCheckResult:
        evaluations = kept_evaluations(location.settings)
        if not evaluations:
            return _no_report()
        evaluation = evaluations[0]
        times = {kind.kind: max(one.speedup(kind.kind) for one in evaluations) for kind in evaluation.kinds}
        slow = [f"{kind} {speedup:.2f} times" for kind, speedup in times.items() if speedup <= 1]
        small = evaluation.rows < SMALL_ROWS
        return dg.AssetCheckResult(
            passed=not slow,
            severity=dg.AssetCheckSeverity.WARN if small else dg.AssetCheckSeverity.ERROR,
            description=f"against exact search: {'; '.join(slow)} ({evaluation.rows:,} rows)" if slow else None,
            metadata=times,
        )

    return [recall_meets_target, index_beats_scan]


def _with_build(instance: dg.DagsterInstance, settings: Settings, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the cost of the last build of its method."""
    asset = "vector_index" if evaluation.method == "graph" else "vector_cells"
    return replace(evaluation, core_seconds_a_million=build_core_seconds(instance, settings, asset))


def _no_report() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="there is no report yet: materialize recall_report")


def _metadata(evaluation: Evaluation) -> Metadata:
    metadata: Metadata = {
        "rows": evaluation.rows,
        "partitions": len(evaluation.shards),
        "seconds": round(evaluation.seconds, 3),
        "index": evaluation.index,
        "exact_seconds": round(evaluation.exact_seconds, 3),
        "exact_from_store": evaluation.exact_from_store,
    }
    for kind in evaluation.kinds:
        one = evaluation.chosen(kind.kind)
        metadata |= {
            f"recall_at_10_{kind.kind}": one.at_10.mean,
            f"recall_at_10_low_{kind.kind}": one.at_10.low,
            f"recall_at_10_high_{kind.kind}": one.at_10.high,
            f"target_met_{kind.kind}": meets_target(evaluation, kind.kind),
            f"p50_ms_{kind.kind}": round(one.latency.p50, 3),
            f"exact_p50_ms_{kind.kind}": round(kind.exact.p50, 3),
            f"times_faster_{kind.kind}": round(evaluation.speedup(kind.kind), 2),
            f"search_{kind.kind}": str(one.search),
        }
        if kind.cold_ms is not None:
            metadata[f"cold_ms_{kind.kind}"] = round(kind.cold_ms, 3)
        if one.at_100 is not None:
            metadata[f"recall_at_100_{kind.kind}"] = one.at_100.mean
    return metadata
