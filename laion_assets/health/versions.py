"""Code versions of the assets, and the data versions that Dagster recorded. The two decide what is stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from laion_assets.dagster_internals.names import CODE_VERSION_TAG, DATA_VERSION_TAG, INPUT_DATA_VERSION_PREFIX
from laion_assets.health.keys import asset_key
from laion_assets.index.cells.schema import METHOD
from laion_assets.index.parameters import IndexParameters
from laion_assets.settings import Settings
from laion_assets.shard import merged
from laion_assets.shard.merge_rules import array_rules, column_rules

RECORDS_AT_ONCE = 500
"""Values bound in one query: older versions of SQLite take at most 999."""


@dataclass(frozen=True)
class RecordedVersions:
    """The versions that one materialization recorded: its data version, code version, and its inputs' data versions;
    `event` is its number."""

    data: str = ""
    code: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    event: int = 0

    @classmethod
    def of(cls, record: dg.EventLogRecord) -> RecordedVersions:
        """The versions in a materialization's tags; empty if the event was recorded without a run."""
        materialization = record.asset_materialization
        tags = {} if materialization is None else materialization.tags or {}
        start = INPUT_DATA_VERSION_PREFIX
        inputs = {name.removeprefix(start): value for name, value in tags.items() if name.startswith(start)}
        return cls(tags.get(DATA_VERSION_TAG, ""), tags.get(CODE_VERSION_TAG, ""), inputs, record.storage_id)


UNOBSERVED = "unobserved "
"""Prefix of the data version of raw files whose source could not be asked. Whether the source has changed is known only
from two later observations."""


class Observed(NamedTuple):
    """The version of a shard's remote files, and when it was observed (Unix time)."""

    version: str
    at: float


def source_version(observed: str) -> str:
    """The data version of raw files that were fetched when their source was observed with this version."""
    return digest(observed)


def was_taken(recorded: str, version: str) -> bool:
    """Whether a recorded input version is this data version. For a partition Dagster records its SHA-256."""
    return recorded in (version, hashlib.sha256(version.encode()).hexdigest())


def digest(*parts: object) -> str:
    """A short text that changes if any of the parts changes."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_version(settings: Settings, asset: str) -> str:
    """All that decides an asset's result besides its inputs, as one text. A changed text marks the asset as stale.

    Limits, retries and paths are left out: they decide whether a step succeeds, but not what it makes.
    """
    dataset = settings.dataset
    columns = digest(column_rules(dataset, settings.extra_column_types))
    index = str(IndexParameters.of(settings))
    versions = {
        "raw_shard": f"{dataset.name}; {dataset.image_file}, {dataset.text_file}, {dataset.metadata_file}"
        f"{dataset.cut and f', {dataset.cut}'}",
        "merged_shard": f"format {merged.FORMAT}; {dataset.dimension} dimensions, {', '.join(dataset.vector_columns)}, "
        f"{'normalised' if dataset.normalised else 'not normalised'}; columns {columns}{array_rules(dataset)}",
        "clickhouse_partition": f"codec {settings.vector_codec}, granules of {settings.index_granularity}; "
        f"columns {columns}",
        "vector_index": index,
        "vector_cells": METHOD,
        "recall_report": f"targets {settings.recall_target:g} {digest(settings.recall_targets)}, "
        f"{settings.recall_queries} queries",
        "hnsw_tuning": f"{settings.tuning_rows} rows in {settings.tuning_partitions}, {settings.tuning_granularities}",
        "clip_encoders": f"{dataset.clip_model}",
    }
    # Our own number: raise it when the code itself makes a different result from the same settings.
    return "; ".join(part for part in ("1", versions.get(asset, "")) if part)


def latest_materializations(
    instance: DagsterInstance, key: dg.AssetKey, partitions: set[str] | None = None
) -> list[dg.EventLogRecord]:
    """The last materialization of each partition, or of these, in the order in which they were recorded."""
    latest = instance.get_latest_storage_id_by_partition(key, DagsterEventType.ASSET_MATERIALIZATION, partitions)
    ids = sorted(latest.values())
    records: list[dg.EventLogRecord] = []
    for start in range(0, len(ids), RECORDS_AT_ONCE):
        wanted = dg.AssetRecordsFilter(key, storage_ids=ids[start : start + RECORDS_AT_ONCE])
        records += instance.fetch_materializations(wanted, limit=RECORDS_AT_ONCE, ascending=True).records
    return records


def last_observed(
    instance: DagsterInstance, settings: Settings, partitions: set[str] | None = None
) -> dict[str, Observed]:
    """The last observation of each shard's remote files; of these shards, or of all."""
    key = asset_key(settings, "remote_shard")
    latest = instance.get_latest_storage_id_by_partition(key, DagsterEventType.ASSET_OBSERVATION, partitions)
    ids = sorted(latest.values())
    found: dict[str, Observed] = {}
    for start in range(0, len(ids), RECORDS_AT_ONCE):
        wanted = dg.AssetRecordsFilter(key, storage_ids=ids[start : start + RECORDS_AT_ONCE])
        found.update(_observed(instance.fetch_observations(wanted, limit=RECORDS_AT_ONCE).records))
    return found


def first_observed(instance: DagsterInstance, settings: Settings, shard: str, after: int) -> Observed | None:
    """The first observation of a shard's remote files after an event; None if there is none."""
    wanted = dg.AssetRecordsFilter(
        asset_key(settings, "remote_shard"), asset_partitions=[shard], after_storage_id=after
    )
    return _observed(instance.fetch_observations(wanted, limit=1, ascending=True).records).get(shard)


def _observed(records: Sequence[dg.EventLogRecord]) -> dict[str, Observed]:
    found = {}
    for record in records:
        observation = record.asset_observation
        if observation is not None and observation.partition is not None:
            found[observation.partition] = Observed(observation.tags.get(DATA_VERSION_TAG, ""), record.timestamp)
    return found


def partition_versions(instance: DagsterInstance, settings: Settings) -> dict[int, str]:
    """The data version of each loaded partition, by shard; if none was recorded, the number of the event."""
    versions = {}
    numbers = dict(zip(settings.dataset.shard_keys, settings.dataset.shards, strict=True))
    for record in latest_materializations(instance, asset_key(settings, "clickhouse_partition")):
        if record.partition_key in numbers:
            versions[numbers[record.partition_key]] = RecordedVersions.of(record).data or str(record.storage_id)
    return versions


def index_version(settings: Settings, versions: Mapping[int, str]) -> str:
    """The data version of an index over partitions with these data versions, by shard."""
    return digest(code_version(settings, "vector_index"), sorted(versions.items()))


def cells_version(settings: Settings, versions: Mapping[int, str]) -> str:
    """The data version of the cells of partitions with these data versions, by shard."""
    return digest(code_version(settings, "vector_cells"), sorted(versions.items()))


def last_load(instance: DagsterInstance, settings: Settings) -> int:
    """The number of the last event that loaded a partition; 0 if there is none."""
    loads = instance.get_latest_storage_id_by_partition(
        asset_key(settings, "clickhouse_partition"), DagsterEventType.ASSET_MATERIALIZATION
    )
    return max(loads.values(), default=0)
