"""The facts of health that are not about one shard: the last index, recall and audit, the shards that were asked for,
and the process that holds the engine. This module judges nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from laion_assets.health.audits import last_audits
from laion_assets.health.builds import Builds
from laion_assets.health.history import COVERED_SHARDS, ShardHistory
from laion_assets.health.keys import asset_key, job_name, measured_assets
from laion_assets.health.loaded_since import loads_seen
from laion_assets.health.under_way import other_active_runs
from laion_assets.health.versions import RecordedVersions
from laion_assets.plan.kept_plan import plan_in_force
from laion_assets.recall.compare import have_other_targets, kept_evaluations
from laion_assets.recall.figures import Evaluation
from laion_assets.settings import Settings
from laion_assets.table.embedded import holding_process
from laion_assets.words import shards_of

RECENT_BUILDS = 20
"""Number of the newest builds in which the last build that recorded its cost is searched."""

CORE_SECONDS = ("core_seconds_a_million", "image_core_seconds_a_million", "text_core_seconds_a_million")
"""Keys of the metadata of `vector_index` and `vector_cells`."""


@dataclass(frozen=True)
class IndexRecord:
    """The last build: when it ended (Unix time), its shards, those of its shards that were loaded again since, and the
    code version that made it."""

    made_at: float
    covered: frozenset[int]
    loaded_again: frozenset[int]
    code: str


@dataclass(frozen=True)
class Audit:
    """The last check of each partition: shards whose check failed, shards without a check, and the Unix time of the
    oldest check, None if there is none."""

    failed: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()
    oldest_at: float | None = None
    oldest: str = ""


@dataclass(frozen=True)
class Holder:
    """The process that holds the embedded engine's folder: its id, its command, and its start (Unix time)."""

    process: int
    command: str
    since: float | None


@dataclass(frozen=True)
class LoadFacts:
    """All facts. `under_way` are assets of active runs that are not about a shard; `asked_for` are shards to load.
    `planned_at` is when the last load was planned (Unix time).

    `index` and `cells` are None if LAION_INDEX asks for the other one alone. `evaluations` are the last ones of the
    methods that it asks for, with the targets of the settings; `other_targets` says whether they were measured for
    others. `builds` is what the table still has of what was built, None if the table was not read.
    """

    index: IndexRecord | None = None
    cells: IndexRecord | None = None
    recall_at: float | None = None
    evaluations: Sequence[Evaluation] = ()
    other_targets: bool = False
    audit: Audit = Audit()
    holder: Holder | None = None
    asked_for: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    planned_at: float | None = None
    builds: Builds | None = None


def read_facts(
    instance: DagsterInstance, settings: Settings, histories: list[ShardHistory], builds: Builds | None = None
) -> LoadFacts:
    """Asks Dagster, the store and the operating system, with a few queries. `builds` was read from the table."""
    report = _last(instance, asset_key(settings, "recall_report"))
    plan = plan_in_force(settings)
    under_way, measured = other_active_runs(instance, settings), measured_assets(settings)
    return LoadFacts(
        index=_build(instance, settings, "vector_index") if "vector_index" in measured else None,
        cells=_build(instance, settings, "vector_cells") if "vector_cells" in measured else None,
        recall_at=None if report is None else report.timestamp,
        evaluations=kept_evaluations(settings),
        other_targets=have_other_targets(settings),
        audit=read_audit(instance, settings, histories),
        holder=engine_holder(settings),
        asked_for=_asked_for(instance, settings, histories),
        under_way={name for run in under_way for name in run.assets},
        planned_at=None if plan is None else plan.made_at,
        builds=builds,
    )


def _last(instance: DagsterInstance, key: dg.AssetKey) -> dg.EventLogRecord | None:
    return next(iter(instance.fetch_materializations(key, limit=1).records), None)


def build_core_seconds(instance: DagsterInstance, settings: Settings, asset: str) -> float | None:
    """Core seconds a million vectors of the last build that recorded them: of graphs, or of cells without training."""
    records = instance.fetch_materializations(asset_key(settings, asset), limit=RECENT_BUILDS).records
    for record in records:
        metadata = record.asset_materialization.metadata if record.asset_materialization is not None else {}
        found = [one.value for name, one in metadata.items() if name in CORE_SECONDS]
        numbers = [float(value) for value in found if isinstance(value, (int, float))]
        if numbers:
            return max(numbers)
    return None


def _build(instance: DagsterInstance, settings: Settings, asset: str) -> IndexRecord | None:
    record = _last(instance, asset_key(settings, asset))
    if record is None or record.asset_materialization is None:
        return None
    metadata = record.asset_materialization.metadata
    covered = shards_of(str(metadata[COVERED_SHARDS].value)) if COVERED_SHARDS in metadata else set()
    since = loads_seen(record)
    loads = instance.get_latest_storage_id_by_partition(
        asset_key(settings, "clickhouse_partition"), DagsterEventType.ASSET_MATERIALIZATION
    )
    again = frozenset(shard for shard in covered if loads.get(settings.dataset.key_of(shard), 0) > since)
    return IndexRecord(record.timestamp, frozenset(covered), again, RecordedVersions.of(record).code)


def read_audit(instance: DagsterInstance, settings: Settings, histories: list[ShardHistory]) -> Audit:
    """When the loaded partitions were last checked, and the results."""
    loaded = {history.key for history in histories if history.progress == "loaded"}
    checked = {key: found for key, found in last_audits(instance, settings).items() if key in loaded}
    if not checked:
        return Audit(never=frozenset(loaded))
    oldest = min(checked, key=lambda key: checked[key][0])
    return Audit(
        failed=frozenset(key for key, (_, passed) in checked.items() if not passed),
        never=frozenset(loaded - checked.keys()),
        oldest_at=checked[oldest][0],
        oldest=oldest,
    )


def _asked_for(instance: DagsterInstance, settings: Settings, histories: list[ShardHistory]) -> set[str]:
    """Shards that are to be loaded: those of the plan in force, those whose run is active or failed, and all shards if
    the schedule that loads the next ones runs. Canceling a run means that its shard is not asked for any more."""
    # An instance in memory has no schedules.
    there = instance.schedule_storage is not None
    known = instance.all_instigator_state() if there else []
    schedule = job_name(settings, "load_next_shards")
    if any(state.instigator_name == schedule and state.status.value == "RUNNING" for state in known):
        return {history.key for history in histories}
    plan = plan_in_force(settings)
    planned = {one.shard for one in plan.shards} if plan is not None else set()
    return {
        history.key
        for history in histories
        if history.last_run != "canceled"
        and (history.shard in planned or history.active or history.last_run == "failed")
    }


def engine_holder(settings: Settings) -> Holder | None:
    """The process that holds the embedded engine, by the `status` file in its folder; None if there is none."""
    parts = urlsplit(settings.clickhouse_url.get_secret_value())
    if parts.scheme != "chdb" or (process := holding_process(Path(unquote(parts.netloc + parts.path)))) is None:
        return None
    text = (Path(unquote(parts.netloc + parts.path)) / "status").read_text(encoding="utf-8", errors="replace")
    started = re.search(r"Started at: (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", text)
    since = None
    if started is not None:
        since = datetime.strptime(started[1], "%Y-%m-%d %H:%M:%S").timestamp()  # local time, as the engine writes it
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    return Holder(process, " ".join(words)[:120].strip(), since)
