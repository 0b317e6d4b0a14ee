"""The asset keys and job names of one code location: LAION_KEY_PREFIX comes before each."""

from __future__ import annotations

from dagster import AssetKey, DagsterRun

from laion_assets.settings import Settings

CHAIN = ("raw_shard", "merged_shard", "clickhouse_partition")
"""The assets that are partitioned by shard, in order."""

ASSETS = (
    *("remote_shard", *CHAIN, "vector_index", "vector_cells", "recall_report"),
    *("hnsw_tuning", "clip_encoders", "load_report"),
)
"""All assets."""

LOAD_JOB = "load_shards"
"""The job of that chain."""

BUILD_JOB = "build_index"
OBSERVE_JOB = "observe_remote"
REPORT_JOB = "report_health"
AUDIT_JOB = "audit_partitions"
UPDATE_JOB = "bring_up_to_date"
JOBS = (LOAD_JOB, BUILD_JOB, OBSERVE_JOB, REPORT_JOB, AUDIT_JOB, UPDATE_JOB)


def asset_key(settings: Settings, name: str) -> AssetKey:
    """The full key of one of our assets."""
    return AssetKey([*settings.key_prefix, name])


def measured_assets(settings: Settings) -> list[str]:
    """The assets whose recall is measured, by LAION_INDEX. If the settings build nothing, graphs are: a user may have
    built them."""
    cells = ["vector_cells"] if settings.builds_cells else []
    return [*(["vector_index"] if settings.builds_graphs or not cells else []), *cells]


def built_assets(settings: Settings) -> list[str]:
    """The assets that the job `build_index` materializes, by LAION_INDEX."""
    cells = ["vector_cells"] if settings.builds_cells else []
    graphs = ["vector_index"] if settings.builds_graphs else []
    return [*graphs, *cells, "recall_report"] if graphs or cells else ["load_report"]


def chain_keys(settings: Settings) -> dict[str, AssetKey]:
    """The keys of the assets that are partitioned by shard, by name and in order."""
    return {name: asset_key(settings, name) for name in CHAIN}


def job_name(settings: Settings, name: str) -> str:
    """The full name of one of our jobs. A run of a whole job records this name, but no assets."""
    return "_".join([*settings.key_prefix, name])


def our_keys(settings: Settings) -> frozenset[AssetKey]:
    """The keys of all assets of this code location's settings; a project may have other assets beside them."""
    return frozenset(asset_key(settings, name) for name in ASSETS)


def is_ours(settings: Settings, run: DagsterRun) -> bool:
    """Whether a run is for an asset or a check of ours, or of a job of ours, or for all assets of the code location."""
    selected = {*(run.asset_selection or ()), *(key.asset_key for key in run.asset_check_selection or ())}
    if not selected:
        return run.job_name.startswith("__ASSET_JOB") or run.job_name in {job_name(settings, job) for job in JOBS}
    return not selected.isdisjoint(our_keys(settings))
