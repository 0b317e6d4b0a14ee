"""The jobs that people launch by name. When they run by themselves is said in the other files of this room."""

from __future__ import annotations

import dagster as dg

from laion_assets.health.history import CHAIN, LOAD_JOB

load_shards = dg.define_asset_job(
    LOAD_JOB,
    selection=dg.AssetSelection.assets(*CHAIN),
    description="One shard from its source to its partition of the table, with every check: a run a partition.",
)

build_index = dg.define_asset_job(
    "build_index",
    selection=dg.AssetSelection.assets("vector_index", "recall_report"),
    description="The indexes of all loaded partitions that lack them, and their recall against exact search.",
)

observe_remote = dg.define_asset_job(
    "observe_remote",
    selection=dg.AssetSelection.assets("remote_shard"),
    description="Sizes, ETags and dates of the remote files of shards that are loaded.",
)

report_health = dg.define_asset_job(
    "report_health",
    selection=dg.AssetSelection.assets("load_report"),
    description="The report of the whole load, and whether all is well.",
)
