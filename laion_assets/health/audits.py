"""The last check of each partition against its merged file: by its load, or by an audit. It starts none."""

from __future__ import annotations

from dagster import AssetCheckKey, DagsterInstance

from laion_assets.dagster_internals.records import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
    PartitionKeyFilter,
)
from laion_assets.health.keys import asset_key
from laion_assets.settings import Settings

AUDIT_CHECK = "partition_matches_parquet"
"""The check of a partition that the audit repeats."""

AUDIT_PAGE = 500
AUDIT_PAGES = 20
"""At most this many pages of records of checks are read, the newest first: 24 audits of each of 410 partitions. The
checks of partitions that are not among them are read one by one."""

ONE_BY_ONE = 20
"""For so few partitions, a query each reads less than a page."""


def last_audits(instance: DagsterInstance, settings: Settings) -> dict[str, tuple[float, bool]]:
    """When each partition was last checked, in seconds since 1970, and whether the check passed.

    A check whose run ended before it could read the partition says nothing about it: that failure is reported with the
    run. Times are read from the records of checks, since the numbers of events mean different things in Dagster's
    storages (SQLite counts them run by run).
    """
    key = _key(settings)
    infos = instance.event_log_storage.get_asset_check_partition_info([key])
    return _last_completed(instance, key, {info.partition_key for info in infos if info.partition_key is not None})


def failed_audits(
    instance: DagsterInstance, settings: Settings, partitions: set[str] | None = None
) -> dict[str, float]:
    """The partitions whose last completed check failed, of these or of all, with its Unix time."""
    key = _key(settings)
    wanted = None if partitions is None else sorted(partitions)
    infos = instance.event_log_storage.get_asset_check_partition_info([key], partition_keys=wanted)
    # The last one may be a check that was planned and never made, or not yet: each run of a backfill plans one.
    doubtful = {
        info.partition_key
        for info in infos
        if info.partition_key is not None and info.latest_execution_status != AssetCheckExecutionRecordStatus.SUCCEEDED
    }
    return {shard: at for shard, (at, passed) in _last_completed(instance, key, doubtful).items() if not passed}


def _last_completed(
    instance: DagsterInstance, key: AssetCheckKey, partitions: set[str]
) -> dict[str, tuple[float, bool]]:
    """The time of the last completed check of each of these partitions, and whether it passed."""
    found: dict[str, tuple[float, bool]] = {}
    cursor: int | None = None
    for _ in range(AUDIT_PAGES if len(partitions) > ONE_BY_ONE else 0):
        records = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=AUDIT_PAGE, cursor=cursor, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        for record in records:
            if record.partition in partitions:
                _take(found, record)
        if len(records) < AUDIT_PAGE or partitions <= found.keys():
            return found
        cursor = records[-1].id
    for partition in sorted(partitions - found.keys()):
        for record in instance.event_log_storage.get_asset_check_execution_history(
            key,
            limit=1,
            status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
            partition_filter=PartitionKeyFilter(key=partition),
        ):
            _take(found, record)
    return found


def _take(found: dict[str, tuple[float, bool]], record: AssetCheckExecutionRecord) -> None:
    """Adds a record's partition, unless a newer record of it was added before."""
    if record.partition is not None and record.event is not None:
        passed = record.status == AssetCheckExecutionRecordStatus.SUCCEEDED
        found.setdefault(record.partition, (record.event.timestamp, passed))


def _key(settings: Settings) -> AssetCheckKey:
    return AssetCheckKey(asset_key(settings, "clickhouse_partition"), AUDIT_CHECK)
