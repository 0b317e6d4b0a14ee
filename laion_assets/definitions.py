"""`build_definitions(settings)` puts the code location together; `defs` is what workspace.yaml loads."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from laion_assets.assets.clickhouse_partition import clickhouse_partition_asset, clickhouse_partition_checks
from laion_assets.assets.clip_encoders import clip_encoders_asset, clip_encoders_checks
from laion_assets.assets.hnsw_tuning import hnsw_tuning_asset
from laion_assets.assets.load_report import load_report_asset
from laion_assets.assets.location import CodeLocation, ProgressOf
from laion_assets.assets.merged_shard import merged_shard_asset, merged_shard_checks
from laion_assets.assets.raw_shard import raw_shard_asset, raw_shard_checks
from laion_assets.assets.recall_report import recall_report_asset, recall_report_checks
from laion_assets.assets.remote_shard import remote_shard_asset
from laion_assets.assets.vector_cells import vector_cells_asset, vector_cells_checks
from laion_assets.assets.vector_index import vector_index_asset, vector_index_checks
from laion_assets.automation.alerts import build_alerts
from laion_assets.automation.jobs import build_jobs
from laion_assets.automation.milestones import milestone_sensor
from laion_assets.automation.schedules import build_schedules
from laion_assets.automation.update import update_job
from laion_assets.execution.executor import watched_executor
from laion_assets.resources import build_resources
from laion_assets.settings import Settings, load_settings


def build_definitions(
    settings: Settings,
    progress: ProgressOf | None = None,
    *,
    with_executor: bool = True,
    variables: Mapping[str, str] | None = None,
) -> dg.Definitions:
    """New definitions for these settings. `progress` shows a step's progress elsewhere than in Dagster's log.

    `with_executor` makes our executor the default executor of the code location, also for runs of jobs that are not
    ours. A code location has only one default executor, so definitions that are part of another project do not set it.
    `variables` are the environment variables that hold the secrets of the settings, by field, where they are not
    LAION_*.
    """
    location = CodeLocation(settings) if progress is None else CodeLocation(settings, progress)
    return dg.Definitions(
        assets=[
            remote_shard_asset(location),
            raw_shard_asset(location),
            merged_shard_asset(location),
            clickhouse_partition_asset(location),
            vector_index_asset(location),
            vector_cells_asset(location),
            recall_report_asset(location),
            hnsw_tuning_asset(location),
            clip_encoders_asset(location),
            load_report_asset(location),
        ],
        asset_checks=[
            *raw_shard_checks(location),
            *merged_shard_checks(location),
            *clickhouse_partition_checks(location),
            *vector_index_checks(location),
            *vector_cells_checks(location),
            *recall_report_checks(location),
            *clip_encoders_checks(location),
        ],
        jobs=[*build_jobs(settings), update_job(settings)],
        schedules=build_schedules(settings),
        resources=build_resources(settings, variables),
        sensors=[milestone_sensor(settings), *build_alerts(settings)],
        executor=watched_executor if with_executor else None,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The code location of the environment's settings."""
    return build_definitions(load_settings())
