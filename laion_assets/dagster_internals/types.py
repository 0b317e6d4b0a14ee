"""Types that public functions and attributes of Dagster return, but that are not public: only for annotations."""

from __future__ import annotations

from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig

__all__ = [
    "AssetGraph",  # RepositoryDefinition.asset_graph
    "RawMetadataValue",  # values of a MaterializeResult's metadata
    "RunQueueConfig",  # QueuedRunCoordinator.get_run_queue_config(), of which PriorityRunCoordinator changes one field
    "UnresolvedAssetJobDefinition",  # what define_asset_job returns
]
