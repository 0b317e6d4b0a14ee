"""The last check of each partition against its merged file: by its load, or by an audit. It starts none."""

from __future__ import annotations

from dagster import AssetCheckKey, DagsterInstance

from laion_assets.dagster_internals.records import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecordStatus,
    PartitionKeyFilter,
)
from laion_assets.health.keys import asset_key
from laion_assets.settings import Settings

AUDIT_CHECK = "partition_matches_parquet"
"""The check of a partition that the audit repeats."""

AUDIT_PAGE = 500
AUDIT_PAGES = 20
"""At most this many records of checks are read, the newest first: 24 audits of each of 410 partitions."""


def last_audits(instance: DagsterInstance, settings: Settings) -> dict[str, tuple[float, bool]]:
    """When each partition was last checked, in seconds since 1970, and whether the check passed.

    A check whose run ended before it could read the partition says nothing about it: that failure is reported with the
    run. Times are read from the records of checks, since the numbers of events mean different things in Dagster's
    storages (SQLite counts them run by run).
    """
    key = _key(settings)
    infos = instance.event_log_storage.get_asset_check_partition_info([key])
    wanted = {info.partition_key for info in infos if info.partition_key is not None}
    found: dict[str, tuple[float, bool]] = {}
    cursor: int | None = None
    for _ in range(AUDIT_PAGES):
        records = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=AUDIT_PAGE, cursor=cursor, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        for record in records:
            if record.partition is not None and record.event is not None:
                passed = record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
                found.setdefault(record.partition, (record.event.timestamp, passed))
        if len(records) < AUDIT_PAGE or wanted <= found.keys():
            break
        cursor = records[-1].id
    return found


def failed_audits(
    instance: DagsterInstance, settings: Settings, partitions: set[str] | None = None
) -> dict[str, float]:
    """The partitions whose last completed check failed, of these or of all, with its Unix time.

    One query, and one more for each partition whose last check did not pass.
    """
    key = _key(settings)
    wanted = None if partitions is None else sorted(partitions)
    infos = instance.event_log_storage.get_asset_check_partition_info([key], partition_keys=wanted)
    failed: dict[str, float] = {}
    for info in infos:
        shard = info.partition_key
        if shard is None or info.latest_execution_status == AssetCheckExecutionRecordStatus.SUCCEEDED:
            continue
        # The last one may be a check that was planned and never made.
        records = instance.event_log_storage.get_asset_check_execution_history(
            key,
            limit=1,
            status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
            partition_filter=PartitionKeyFilter(key=shard),
        )
        for record in records:
            if record.status == AssetCheckExecutionRecordStatus.FAILED and record.event is not None:
                failed[shard] = record.event.timestamp
    return failed


def _key(settings: Settings) -> AssetCheckKey:
    return AssetCheckKey(asset_key(settings, "clickhouse_partition"), AUDIT_CHECK)
