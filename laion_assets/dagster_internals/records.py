"""The history of checks by partition in the event log, and the waiting steps of a pool.

`DagsterInstance` has public methods for materializations and observations, but none for the history of a check
(partitioned checks are in preview). Pools have a public page in the UI and a command, but no method for Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagster import DagsterInstance, EventLogRecord, EventRecordsFilter
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

__all__ = [
    "COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES",
    "AssetCheckEvaluationTargetMaterializationData",
    "AssetCheckExecutionRecord",
    "AssetCheckExecutionRecordStatus",
    "PartitionKeyFilter",
    "events_of_all_runs",
    "sql_event_log",
]


def sql_event_log(instance: DagsterInstance) -> SqlEventLogStorage | None:
    """The event log, if it is in a SQL database (SQLite, PostgreSQL, MySQL). Dagster's event log in memory is one too.

    The class is imported by the call: with it come sqlalchemy and alembic, a third of a second for everyone who
    imports our definitions. An instance that is open has imported them already.
    """
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    return storage if isinstance(storage, SqlEventLogStorage) else None


def events_of_all_runs(
    instance: DagsterInstance, wanted: EventRecordsFilter, limit: int, *, ascending: bool
) -> Sequence[EventLogRecord]:
    """Events with the numbers that they have in all runs together.

    Dagster's SQLite storage has a file for each run besides the one for all runs. Its own method reads the files of
    the runs, where it refuses a number as a cursor; so the method of its base class is called, which reads the file
    for all runs.
    """
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = sql_event_log(instance)
    if storage is None:
        return instance.event_log_storage.get_event_records(wanted, limit=limit, ascending=ascending)
    return SqlEventLogStorage.get_event_records(storage, wanted, limit=limit, ascending=ascending)
