"""`hnsw_tuning`: tries HNSW parameters on a sample of the loaded rows and names the cheapest that meet the target."""

import dagster as dg

from laion_assets.assets.location import CodeLocation, Metadata, asset, failing_clearly
from laion_assets.recall.plot import inline_image
from laion_assets.recall.tuning import Tuning, TuningPlan, recommended_settings, tune, tuning_folder
from laion_assets.recall.tuning_report import tuning_markdown, tuning_plot
from laion_assets.shard.files import replacing
from laion_assets.table.nodes import connect_to_own_rows


def hnsw_tuning_asset(location: CodeLocation, plan: TuningPlan | None = None) -> dg.AssetsDefinition:
    """The asset. `plan` is the sample's size and shape, and the parameters to try on it."""

    @asset(
        location,
        "hnsw_tuning",
        group="search",
        kinds={"clickhouse", "matplotlib"},
        deps=["clickhouse_partition"],
        touches_table=True,
        description="Trials of HNSW parameters on a sample: build cost, memory, recall and latency. Quantization, M, "
        "ef_construction and granularity are varied in a scratch table that is always removed. The "
        "report has the Pareto front, and the cheapest parameters that meet LAION_RECALL_TARGET beside "
        "those of ClickHouse's page. Other stored forms of vectors are tried, too.",
    )
    def hnsw_tuning(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with failing_clearly():
            with connect_to_own_rows(location.settings) as db:
                tuning = tune(db, plan or _plan(location), log=context.log.info)
            picture = tuning_plot(tuning)
            path = tuning_folder(location.settings) / "tuning.png"
            with replacing(path, subject="tuning.png") as temporary:
                temporary.write_bytes(picture)
        report = tuning_markdown(tuning, inline_image(picture, "recall against memory"))
        return dg.MaterializeResult(
            metadata={
                **_metadata(tuning),
                "report": dg.MetadataValue.md(report),
                "plot": dg.MetadataValue.path(path),
            }
        )

    return hnsw_tuning


def _plan(location: CodeLocation) -> TuningPlan:
    settings = location.settings
    return TuningPlan(settings.tuning_rows, settings.tuning_partitions, granularities=settings.tuning_granularities)


def _metadata(tuning: Tuning) -> Metadata:
    metadata: Metadata = {"rows": tuning.rows, "partitions": tuning.partitions, "trials": len(tuning.trials)}
    for what, trial in (("cheapest", tuning.cheapest), ("smallest", tuning.smallest)):
        if trial is None:
            metadata[what] = "none meets the target"
            continue
        metadata |= {
            what: dg.MetadataValue.json(recommended_settings(trial)),
            f"{what}_recall_at_10": trial.best_recall,
            f"{what}_bytes_a_vector": round(trial.memory_bytes_a_vector, 1),
            f"{what}_memory_gb": round(tuning.memory_gb(trial), 1),
        }
        if (hours := tuning.build_core_hours(trial)) is not None:
            metadata[f"{what}_core_hours"] = round(hours, 1)
    return metadata
