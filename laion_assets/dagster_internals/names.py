"""Words that Dagster documents as text without a public constant: tags, and the name of a daemon.

Users may set tags of materializations since dagster-io/dagster#21452. The tags are written here as they are in
Dagster's storage, so that no import is needed.
"""

from __future__ import annotations

PARTITION_TAG = "dagster/partition"
PRIORITY_TAG = "dagster/priority"
"""Tag that decides which run or step is next in the queue, and in a pool."""

BACKFILL_TAG = "dagster/backfill"
KIND_PREFIX = "dagster/kind/"
"""Tag prefix of an asset's kinds: `dg.observable_source_asset` takes no `kinds`."""

CODE_VERSION_TAG = "dagster/code_version"
DATA_VERSION_TAG = "dagster/data_version"
DATA_VERSION_IS_USER_PROVIDED_TAG = "dagster/data_version_is_user_provided"
INPUT_DATA_VERSION_PREFIX = "dagster/input_data_version/"

QUEUE_DAEMON = "QUEUED_RUN_COORDINATOR"
"""The daemon that takes runs from the queue, as its heartbeats name it."""
