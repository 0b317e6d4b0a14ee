"""What Dagster recorded of a partition's rows when it was loaded or accepted, as metadata of its materialization."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from dagster import AssetRecordsFilter, DagsterInstance, EventLogRecord, MetadataValue

from laion_assets.health.keys import asset_key
from laion_assets.health.merges import MERGED_VERSION
from laion_assets.health.versions import digest
from laion_assets.settings import Settings

ROWS, FINGERPRINT, VECTOR_SUMS = "dagster/partition_row_count", "fingerprint", "vector_sums"

ACCEPTED = "accepted"
"""Key of the metadata if a person accepted rows that are not those of a merged file: why they are not."""


AGAIN_TAG = "laion_assets/again"
"""Tag of a run that may load a partition with accepted rows again: `true`, set by `laion-assets load --again`."""


class RecordedRows(NamedTuple):
    """What the last materialization of a partition recorded: rows, fingerprint, sums over the vectors' bits, the
    version of the merged file, whether a person accepted other rows than the file's, and when (Unix time).

    -1, 0, None and "" are unknown: there is no materialization, or somebody reported one in the UI, which records no
    metadata. Earlier releases recorded no version.
    """

    rows: int = -1
    fingerprint: int = 0
    sums: dict[str, int] | None = None
    merged: str = ""
    accepted: bool = False
    at: float = 0.0


def rows_metadata(rows: int, fingerprint: int, sums: Mapping[str, int], merged: str) -> dict[str, MetadataValue]:
    """The metadata from which `recorded_rows` reads. The 64-bit numbers are texts: JSON numbers are not exact."""
    return {
        ROWS: MetadataValue.int(rows),
        FINGERPRINT: MetadataValue.text(str(fingerprint)),
        VECTOR_SUMS: MetadataValue.text(json.dumps(dict(sums))),
        MERGED_VERSION: MetadataValue.text(merged),
    }


def rows_version(rows: int, fingerprint: int, merged: str) -> str:
    """The data version of a partition. The fingerprint covers all columns but the vectors, which the merged file's
    version covers."""
    return digest(rows, fingerprint, [merged])


def last_materialization(instance: DagsterInstance, settings: Settings, shard: int) -> EventLogRecord | None:
    """The last materialization of a shard's partition; None if there is none."""
    key = asset_key(settings, "clickhouse_partition")
    wanted = AssetRecordsFilter(key, asset_partitions=[settings.dataset.key_of(shard)])
    records = instance.fetch_materializations(wanted, limit=1).records
    return records[0] if records else None


def recorded_rows(instance: DagsterInstance, settings: Settings, shard: int) -> RecordedRows:
    """What was recorded last of a shard's partition."""
    record = last_materialization(instance, settings, shard)
    materialization = None if record is None else record.asset_materialization
    metadata = {} if materialization is None else materialization.metadata
    if record is None or not metadata.keys() >= {ROWS, FINGERPRINT}:
        return RecordedRows()
    sums = json.loads(str(metadata[VECTOR_SUMS].value)) if VECTOR_SUMS in metadata else None
    merged = str(metadata[MERGED_VERSION].value) if MERGED_VERSION in metadata else ""
    rows, fingerprint = (int(str(metadata[name].value)) for name in (ROWS, FINGERPRINT))
    return RecordedRows(rows, fingerprint, sums, merged, ACCEPTED in metadata, record.timestamp)
