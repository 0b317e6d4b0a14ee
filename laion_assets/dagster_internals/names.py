"""Words of Dagster's that are documented as text and have no public constant: tags, and the name of a daemon.

Tags of materializations may be set by users since dagster-io/dagster#21452. They are written here as they are in
Dagster's storage, so that nothing is imported for them.
"""

from __future__ import annotations

PARTITION_TAG = "dagster/partition"
PRIORITY_TAG = "dagster/priority"
"""Decides who is next in the queue, and in a pool."""

BACKFILL_TAG = "dagster/backfill"
KIND_PREFIX = "dagster/kind/"
"""`dg.observable_source_asset` takes no `kinds`."""

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
DATA_VERSION_IS_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"
INPUT_DATA_VERSION_PREFIX = "dagster/input_data_version/"

QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
"""The daemon that takes runs from the queue, as its heartbeats name it."""
