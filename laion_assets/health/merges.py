"""Which raw and merged files Dagster recorded, and whether the last load refused the file that is there.

A folder may be restored from a backup, so that it has the files of an earlier release. Such files are no input: what is
made from them would be recorded as made from the newer ones.
"""

from __future__ import annotations

from dagster import DagsterEventType, DagsterInstance

from laion_assets.errors import PartitionCheckError, ShardFileError
from laion_assets.health.keys import asset_key
from laion_assets.health.versions import RecordedVersions, latest_materializations
from laion_assets.settings import Settings
from laion_assets.shard.files import sha256_of
from laion_assets.shard.merged import MergedShard, remedy

RAW_VERSION = "raw_version"
"""Key of `raw_shard`'s metadata: it tells its files from those of another fetch (`shard/raw_version.py`)."""

MERGED_VERSION = "merged_version"
"""Key of `clickhouse_partition`'s metadata: the version of the merged file that was loaded (`file_version`)."""

ERROR = "error"
"""Key of a failure's metadata: the class of the error."""

FILE_ERRORS = (ShardFileError.__name__, PartitionCheckError.__name__)
"""The errors of a load by which its merged file is not what it must be."""


def recorded_raw(instance: DagsterInstance, settings: Settings, shard: int) -> str:
    """The digest of the shard's raw files that was recorded last; "" if none was."""
    for record in latest_materializations(instance, asset_key(settings, "raw_shard"), {settings.dataset.key_of(shard)}):
        metadata = {} if record.asset_materialization is None else record.asset_materialization.metadata
        if RAW_VERSION in metadata:
            return str(metadata[RAW_VERSION].value)
    return ""


def recorded_merge(instance: DagsterInstance, settings: Settings, shard: int) -> str:
    """The version of the shard's merged file that was recorded last; "" if none was, as for a merge that somebody
    reported in the UI."""
    key = asset_key(settings, "merged_shard")
    records = latest_materializations(instance, key, {settings.dataset.key_of(shard)})
    return "".join(RecordedVersions.of(record).data for record in records)


def file_version(merged: MergedShard) -> str:
    """The version that is recorded for a merged file: the digest of its rows from its footer. A file of a release that
    did not write it was recorded with its SHA-256; it is read whole. Raises `OSError`, `StoreError`."""
    return merged.contents or sha256_of(merged.path)[:16]


def require_recorded(merged: MergedShard, recorded: str) -> str:
    """The version of a merged file that is to be loaded. Raises `ShardFileError` if another one was recorded."""
    version = file_version(merged)
    if recorded not in ("", version):
        raise ShardFileError(
            merged.subject,
            found=f"the file of another merge ({version}), as from a backup",
            expected=f"the file of the merge that was recorded last ({recorded})",
            advice=remedy(merged.shard),
        )
    return version


def load_refused_file(instance: DagsterInstance, settings: Settings, run_id: str) -> bool:
    """Whether a failed run ended in its load, because of its merged file. False for runs of releases that did not
    record the error's class."""
    load = asset_key(settings, "clickhouse_partition").to_python_identifier()
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        failure = event.step_failure_data.user_failure_data if event is not None else None
        if event is None or failure is None or event.step_key != load or ERROR not in failure.metadata:
            continue
        if failure.metadata[ERROR].value in FILE_ERRORS:
            return True
    return False
