"""The jobs that people launch by name. When they run by themselves is said in the other files of this room."""

from __future__ import annotations

import dagster as dg

CHAIN = ("raw_shard", "merged_shard", "clickhouse_partition")
"""The partitioned chain, in order."""

load_shards = dg.define_asset_job(
    "load_shards",
    selection=dg.AssetSelection.assets(*CHAIN),
    description="One shard from its source to its partition of the table, with every check: a run a partition.",
)
