"""What Dagster recorded about each shard: its last stage, the result of its last run, rows, seconds. Starts nothing."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import dagster as dg
from dagster import DagsterInstance

from laion_assets.dataset import Dataset
from laion_assets.health.audits import failed_audits
from laion_assets.health.keys import CHAIN, chain_keys
from laion_assets.health.merges import load_refused_file
from laion_assets.health.recorded_rows import ACCEPTED, ROWS
from laion_assets.health.runs import LastRun, last_runs
from laion_assets.health.under_way import waiting_in_backfills
from laion_assets.health.versions import (
    UNOBSERVED,
    RecordedVersions,
    code_version,
    first_observed,
    last_observed,
    latest_materializations,
    source_version,
    was_taken,
)
from laion_assets.settings import Settings

COVERED_SHARDS = "covered_shards"
"""Key of `vector_index`'s metadata: the shards of the partitions that it covers, as ranges such as 0-9, 12."""

FETCHED_AS = "fetched_as"
"""Key of `raw_shard`'s metadata, if shards have names: the shard's number and name when it was fetched (`named`)."""

LOADS_SEEN = "loads_seen"
"""Key of `vector_index`'s metadata: Dagster's number of the last load event before the index's build began."""

Progress = Literal["loaded", "merged", "fetched", "missing"]
"""How far a shard is: the last stage of the chain that was materialized."""

RunState = Literal["", "queued", "running", "succeeded", "failed", "canceled"]
"""The state of the shard's last run; empty if it never had one."""

ShardState = Literal["loaded", "running", "queued", "failed", "merged", "fetched", "missing"]


@dataclass
class ShardHistory:
    """One shard: its partition key, and its number. `seconds` is by asset of the chain, `core_seconds` is the sum over
    the chain, `raw_bytes` are the bytes of its source files.

    The stage of a shard and the state of its last run are two facts: a loaded shard stays loaded when its next run
    fails or is canceled. `peak_bytes` is the most resident memory of a step. `loaded_at` is a Unix time, and so is
    `observed_at`, when its source was observed last. `failures` counts the failed runs since the last successful one,
    and `error` is the last one's reason. `stale` says, by asset and in order, why an asset is not what would be made
    now. `run_began` is false for a canceled last run that started no step, `asked_at` is when its last run was created
    (Unix time). `audit_failed` says that a check found other rows in the partition than its file has, after the last
    load. `fetched_as` is the shard's number and name when it was fetched, empty if it has no name. `moved` says that
    the description gives it another number or name now. `merged_bytes` is the size of the merged file that was recorded
    last. `file_refused` says that the last run ended in its load, because of the merged file. `accepted` says that a
    person accepted rows in the table that are not those of a merged file.
    """

    key: str
    progress: Progress = "missing"
    last_run: RunState = ""
    rows: int = 0
    quarantined: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    core_seconds: float = 0.0
    raw_bytes: int = 0
    peak_bytes: int = 0
    loaded_at: float | None = None
    run_id: str = ""
    failures: int = 0
    error: str = ""
    versions: dict[str, RecordedVersions] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    number: int | None = None
    observed_at: float | None = None
    run_began: bool = True
    asked_at: float | None = None
    audit_failed: bool = False
    fetched_as: str = ""
    moved: bool = False
    merged_bytes: int = 0
    file_refused: bool = False
    accepted: bool = False

    @property
    def shard(self) -> int:
        """Its number, which is its key if keys are numbers."""
        return int(self.key) if self.number is None else self.number

    @property
    def state(self) -> ShardState:
        """Both facts in one word: an active run takes precedence over a failed run, and this over the shard's stage."""
        if self.last_run in ("queued", "running", "failed"):
            return self.last_run
        return self.progress

    @property
    def active(self) -> bool:
        """Whether one of its runs is queued or running."""
        return self.last_run in ("queued", "running")

    @property
    def ended_early(self) -> bool:
        """Whether its last run failed or was ended after it had begun, so that what it made was perhaps not checked."""
        return self.last_run == "failed" or (self.last_run == "canceled" and self.run_began)

    @property
    def rows_per_second(self) -> float:
        """Rows a second over all stages of the chain."""
        total = sum(self.seconds.values())
        return self.rows / total if total else 0.0


def read_histories(
    instance: DagsterInstance, settings: Settings, keys: Sequence[str] | None = None, *, with_errors: bool = True
) -> list[ShardHistory]:
    """The history of every shard with one of these keys (None: of the dataset), in their order.

    Takes a few queries, whatever the number of shards and of finished runs: runs are asked for by their ids. Nothing is
    read about other shards.
    """
    dataset = settings.dataset
    wanted = dataset.shard_keys if keys is None else keys
    only = None if keys is None else set(keys)
    histories = {key: ShardHistory(key, number=dataset.shard_number(key)) for key in wanted}
    states: dict[str, Progress] = {"raw_shard": "fetched", "merged_shard": "merged", "clickhouse_partition": "loaded"}
    recorded_by: dict[str, dict[str, float]] = defaultdict(dict)
    for name, key in chain_keys(settings).items():
        for record in latest_materializations(instance, key, only):
            history = histories.get(record.partition_key or "")
            if history is not None:
                history.progress = states[name]
                recorded_by[history.key][record.run_id] = record.timestamp
                _take_materialization(history, name, record)
    for shard in waiting_in_backfills(instance, settings) & histories.keys():
        histories[shard].last_run, histories[shard].run_id = "queued", ""
    for shard, last in last_runs(instance, settings, recorded_by, only, with_errors=with_errors).items():
        if shard in histories:
            _take_run(histories[shard], last)
            if last.state == "failed" and histories[shard].progress in ("merged", "loaded"):
                histories[shard].file_refused = load_refused_file(instance, settings, last.run_id)
    for shard, failed_at in failed_audits(instance, settings, only).items():
        if shard in histories:
            loaded_at = histories[shard].loaded_at
            histories[shard].audit_failed = loaded_at is not None and failed_at > loaded_at
    _mark_stale(settings, histories.values(), _changed_sources(instance, settings, histories, only))
    return list(histories.values())


def recorded_numbers(record: dg.EventLogRecord) -> defaultdict[str, float]:
    """The numbers that a materialization recorded, by name; 0 for other names."""
    materialization = record.asset_materialization
    metadata = {} if materialization is None else materialization.metadata
    numbers: defaultdict[str, float] = defaultdict(float)
    numbers.update({name: kept.value for name, kept in metadata.items() if isinstance(kept.value, (int, float))})
    return numbers


def _take_materialization(history: ShardHistory, asset: str, record: dg.EventLogRecord) -> None:
    numbers = recorded_numbers(record)
    history.versions[asset] = RecordedVersions.of(record)
    history.seconds[asset] = numbers["seconds"]
    history.core_seconds += numbers["core_seconds"]
    history.peak_bytes = max(history.peak_bytes, int(numbers["peak_memory_bytes"]))
    history.run_id = record.run_id
    if asset == "raw_shard":
        history.raw_bytes = int(numbers["bytes"])
        metadata = {} if record.asset_materialization is None else record.asset_materialization.metadata
        history.fetched_as = str(metadata[FETCHED_AS].value) if FETCHED_AS in metadata else ""
    if asset == "merged_shard":
        history.merged_bytes = int(numbers["bytes"])
    if asset == "clickhouse_partition":
        history.rows = int(numbers[ROWS])
        materialization = record.asset_materialization
        history.accepted = materialization is not None and ACCEPTED in materialization.metadata
        history.quarantined = int(numbers["quarantined"])
        history.loaded_at = record.timestamp


def _take_run(history: ShardHistory, last: LastRun) -> None:
    history.failures = last.failures
    if history.last_run == "queued" and not last.active:
        return  # a backfill is about to create a run for it
    history.last_run, history.run_id, history.error = last.state, last.run_id, last.error
    history.run_began, history.asked_at = last.began, last.asked_at


def _mark_stale(settings: Settings, histories: Iterable[ShardHistory], changed: Container[str]) -> None:
    """Says why an asset of a shard is stale, as Dagster's own marks do: other code, or a changed input. Assets after a
    stale asset are stale, too. `changed` are the shards whose sources have other files than were fetched."""
    keys = {name: key.to_user_string() for name, key in chain_keys(settings).items()}
    codes = {name: code_version(settings, name) for name in CHAIN}
    for history in histories:
        made = [(name, history.versions[name]) for name in CHAIN if name in history.versions]
        history.moved = history.fetched_as not in ("", named(settings.dataset, history.shard))
        for number, (name, versions) in enumerate(made):
            before, source = made[number - 1] if number else ("", None)
            taken = versions.inputs.get(keys.get(before, ""), "")
            if versions.code and versions.code != codes[name]:
                history.stale[name] = f"{name} was made with {versions.code!r}, the settings ask for {codes[name]!r}"
            elif name == "raw_shard" and history.moved:
                now = named(settings.dataset, history.shard) or "a shard without a name"
                history.stale[name] = f"it was fetched as {history.fetched_as}, and the dataset's names make it {now}"
            elif name == "raw_shard" and history.key in changed:
                history.stale[name] = "its source has other files"
            elif source is not None and taken and source.data and not was_taken(taken, source.data):
                history.stale[name] = f"{before} was made again with other contents"
            elif history.stale:
                history.stale[name] = f"{before} is stale"


def named(dataset: Dataset, shard: int) -> str:
    """A shard's number and name, such as `3 (00/0a1b)`; empty if it has no name."""
    name = dataset.names.get(shard)
    return f"{shard} ({name})" if name else ""


def _changed_sources(
    instance: DagsterInstance, settings: Settings, histories: Mapping[str, ShardHistory], only: set[str] | None
) -> set[str]:
    """The shards whose sources have other files than were fetched, by the last observation of each; also notes when it
    was made.

    If the source could not be observed when its files were fetched, the first observation after that counts as theirs.
    """
    changed = set()
    for key, observed in last_observed(instance, settings, only).items():
        history = histories.get(key)
        if history is None:
            continue
        history.observed_at = observed.at
        fetched = history.versions.get("raw_shard")
        if fetched is None or not fetched.data or not observed.version:
            continue
        if fetched.data.startswith(UNOBSERVED):
            first = first_observed(instance, settings, key, fetched.event)
            has_changed = first is not None and first.version != observed.version
        else:
            has_changed = fetched.data != source_version(observed.version)
        if has_changed:
            changed.add(key)
    return changed


def hours_since_last_load(histories: list[ShardHistory]) -> float | None:
    """Hours since the last shard was loaded; None if none was."""
    times = [history.loaded_at for history in histories if history.loaded_at is not None]
    return (time.time() - max(times)) / 3600 if times else None
