"""Backfills: how to list the active ones, and how to ask for one from Python.

dagster-io/dagster#26731 proposed a public way and was closed: a maintainer would rather make `PartitionBackfill` and
its constructors public. Importing this module takes a fifth of the code location's import time over Dagster, so
functions import it when they need it.
"""

from __future__ import annotations

from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id

__all__ = [
    "AssetBackfillData",
    "AssetGraphSubset",
    "AssetKeyPartitionKey",
    "BulkActionStatus",
    "BulkActionsFilter",
    "PartitionBackfill",
    "make_new_backfill_id",
]
