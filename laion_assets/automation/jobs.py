"""The jobs that people start by name. The other files of this room decide when jobs run by themselves."""

from __future__ import annotations

from dagster import AssetCheckKey, AssetSelection, define_asset_job

from laion_assets.automation.queue import job_tags
from laion_assets.dagster_internals.types import UnresolvedAssetJobDefinition
from laion_assets.execution.executor import watched_executor
from laion_assets.health.audits import AUDIT_CHECK
from laion_assets.health.keys import (
    AUDIT_JOB,
    BUILD_JOB,
    CHAIN,
    LOAD_JOB,
    OBSERVE_JOB,
    REPORT_JOB,
    asset_key,
    built_assets,
    job_name,
)
from laion_assets.settings import Settings


def build_jobs(settings: Settings) -> list[UnresolvedAssetJobDefinition]:
    """The jobs over the assets of one code location."""

    def job(name: str, *assets: str, description: str) -> UnresolvedAssetJobDefinition:
        selection = AssetSelection.assets(*(asset_key(settings, asset) for asset in assets))
        # The executor is named here: in a code location with other people's definitions the default executor is theirs.
        return define_asset_job(
            job_name(settings, name),
            selection=selection,
            tags=job_tags(assets),
            description=description,
            executor_def=watched_executor,
        )

    return [
        job(
            LOAD_JOB,
            *CHAIN,
            description="Loads a shard from its source into its partition of the table, with every check. Each run "
            "loads one shard.",
        ),
        job(
            BUILD_JOB,
            *built_assets(settings),
            description="Builds what LAION_INDEX names for all loaded partitions that lack it, and measures recall "
            "against exact search.",
        ),
        job(
            OBSERVE_JOB,
            "remote_shard",
            description="Reads sizes, ETags and dates of the remote files of loaded shards.",
        ),
        job(
            REPORT_JOB,
            "load_report",
            description="Writes the report of the whole load and evaluates its health checks.",
        ),
        define_asset_job(
            job_name(settings, AUDIT_JOB),
            selection=AssetSelection.checks(AssetCheckKey(asset_key(settings, CHAIN[-1]), AUDIT_CHECK)),
            # A run of a job of checks names no asset, so the queue could not find its lane.
            tags=job_tags(CHAIN[-1:]),
            executor_def=watched_executor,
            description="Compares loaded partitions with their merged files again. With the tag dagster/partition it "
            "compares that partition. Without the tag it compares as many as LAION_SWEEP_HOURS allow, first those that "
            "were compared longest ago. Nothing is loaded.",
        ),
    ]
