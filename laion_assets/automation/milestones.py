"""When the index is built: a declarative condition, true at milestones of loaded partitions. It builds nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import dagster as dg
from dagster import AssetKey, DagsterEventType, DagsterInstance, RunsFilter

from laion_assets.automation.queue import INDEX, LANE_TAG
from laion_assets.dagster_internals.names import PRIORITY_TAG
from laion_assets.health.history import COVERED_SHARDS, LOADS_SEEN
from laion_assets.health.keys import asset_key, job_name
from laion_assets.health.runs import ACTIVE
from laion_assets.health.upkeep import milestone
from laion_assets.settings import Settings
from laion_assets.words import shards_of

DAY_SECONDS = 86_400.0
"""A milestone whose build failed is asked for again after this time."""


@dataclass(frozen=True)
class Wanted:
    """What should be built: the milestone that was reached, and the last event by which a partition of the index was
    loaded again, 0 if there is none."""

    reached: int
    again: int = 0


@dataclass(frozen=True)
class Asked:
    """What was asked for last, kept as the condition's cursor: the time (Unix time), and the events of the last load
    and of the last build until then, 0 if there is none."""

    reached: int
    load: int
    build: int
    at: float
    parameters: str

    @classmethod
    def read(cls, cursor: str | None) -> Asked | None:
        """Reads a cursor; None without a cursor, or for a cursor of an earlier version."""
        try:
            return cls(**json.loads(cursor or ""))
        except (ValueError, TypeError):
            return None


class MilestoneCondition(dg.AutomationCondition[AssetKey]):
    """True when loaded partitions reached a milestone that the index does not cover, or covered ones were loaded again.

    A milestone is asked for once. While loads are running, partitions that are loaded again do not start a build; one
    build after these loads covers them all. What was asked for and was not built is asked for again at the next
    milestone, when the parameters change, and after a day. The last milestone, and a build over reloads whose run
    failed, are asked for again after the next load. Without a cursor (a new sensor) the last materialization decides.
    `parameters` are those of the index, as text. `keys` are the partition keys of the dataset's shards. Partitions that
    are not of the dataset do not count: Dagster keeps those that were loaded before the dataset was cut down.
    """

    def __init__(
        self,
        partitioned: AssetKey,
        first: int,
        step: int,
        keys: Mapping[int, str],
        parameters: str = "",
    ) -> None:
        self.partitioned, self.keys, self._of_dataset = partitioned, keys, frozenset(keys.values())
        self.first, self.step, self.total, self.parameters = first, step, len(keys), parameters

    @property
    def name(self) -> str:
        """The label in the UI's automation view. It has the parameters, since others make another condition."""
        return f"{self.first} partitions loaded, then every {self.step} more, and the last; or loaded again"

    def evaluate(self, context: dg.AutomationContext[AssetKey]) -> dg.AutomationResult[AssetKey]:
        """Compares the loaded partitions with those of the last materialization and with what was asked for."""
        instance = context.asset_graph_view.instance
        loaded = self.loaded(instance)
        wanted = self.wanted(instance, context.key, loaded)
        asked = Asked.read(context.cursor)
        now = context.evaluation_time.timestamp()
        # An empty candidate means that a run is queued or running. What is wanted now is asked for after that run.
        if (
            wanted is None
            or context.candidate_subset.is_empty
            or (asked is not None and not self._is_due(instance, context.key, wanted, asked, loaded, now))
            or (wanted.again and loads_under_way(instance, self.partitioned))
        ):
            return dg.AutomationResult(context, context.get_empty_subset(), cursor=context.cursor)
        asking = Asked(
            wanted.reached, max(loaded.values(), default=0), _last_build(instance, context.key), now, self.parameters
        )
        return dg.AutomationResult(context, context.candidate_subset, cursor=json.dumps(asdict(asking)))

    def loaded(self, instance: DagsterInstance) -> dict[str, int]:
        """The event of the last load of each loaded partition of the dataset, by its key."""
        found = instance.get_latest_storage_id_by_partition(self.partitioned, DagsterEventType.ASSET_MATERIALIZATION)
        return {key: event for key, event in found.items() if key in self._of_dataset}

    def wanted(self, instance: DagsterInstance, key: AssetKey, loaded: Mapping[str, int]) -> Wanted | None:
        """What should be built now; None if nothing. `loaded` has the event of the last load of each partition."""
        shards, since = _last_cover(instance, key)
        covered = {self.keys[shard] for shard in shards if shard in self.keys}
        reached = self._milestone(len(loaded))
        again = max((loaded[shard] for shard in covered if loaded.get(shard, 0) > since), default=0)
        if reached > self._milestone(len(covered)):
            return Wanted(reached)
        return Wanted(reached, again) if again else None

    def _is_due(
        self,
        instance: DagsterInstance,
        key: AssetKey,
        wanted: Wanted,
        asked: Asked,
        loaded: Mapping[str, int],
        now: float,
    ) -> bool:
        """Whether to ask again for what was asked for before."""
        if _last_build(instance, key) != asked.build:
            return True
        if wanted.reached > asked.reached or asked.parameters != self.parameters or now - asked.at >= DAY_SECONDS:
            return True
        loaded_since = max(loaded.values(), default=0) > asked.load
        if wanted.again:
            return loaded_since and _last_run_failed(instance, key, asked.load)
        return loaded_since and wanted.reached == self.total

    def _milestone(self, loaded: int) -> int:
        return milestone(loaded, first=self.first, step=self.step, total=self.total)


def loads_under_way(instance: DagsterInstance, partitioned: AssetKey) -> bool:
    """Whether a run or a backfill that loads partitions is queued or running."""
    from laion_assets.dagster_internals.backfills import BulkActionsFilter, BulkActionStatus

    requested = BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED])
    if any(partitioned in (backfill.asset_selection or ()) for backfill in instance.get_backfills(requested)):
        return True
    return any(
        partitioned in (run.asset_selection or ()) or (not run.asset_selection and run.tags.get(LANE_TAG) == "load")
        for run in instance.get_runs(RunsFilter(statuses=[*ACTIVE]))
    )


def _last_build(instance: DagsterInstance, key: AssetKey) -> int:
    records = instance.fetch_materializations(key, limit=1).records
    return records[0].storage_id if records else 0


def _last_run_failed(instance: DagsterInstance, key: AssetKey, after: int) -> bool:
    """Whether the last run for this asset that was created after an event failed or was ended."""
    planned = instance.get_latest_planned_materialization_info(key)
    run = instance.get_run_by_id(planned.run_id) if planned is not None and planned.storage_id > after else None
    return run is not None and run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def _last_cover(instance: DagsterInstance, key: AssetKey) -> tuple[set[int], int]:
    """The shards of the last materialization, and the event after which loads are newer than its build.

    The build records that event when it begins. Its run may have waited in the queue while more partitions were loaded;
    the build covers these, so no second build is asked for. If no event was recorded, it is the event that planned the
    run.
    """
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return set(), 0
    recorded = event.asset_materialization.metadata.get(COVERED_SHARDS)
    covered = shards_of(str(recorded.value)) if recorded is not None else set()
    seen = event.asset_materialization.metadata.get(LOADS_SEEN)
    if seen is not None and isinstance(seen.value, int):
        return covered, seen.value
    record = instance.fetch_materializations(key, limit=1).records[0]
    planned = instance.get_latest_planned_materialization_info(key)
    same_run = planned is not None and planned.run_id == event.run_id
    return covered, planned.storage_id if planned is not None and same_run else record.storage_id


def index_condition(milestones: MilestoneCondition) -> dg.AutomationCondition[Any]:
    """The automation condition of `vector_index` and `vector_cells`."""
    return (~dg.AutomationCondition.in_progress() & milestones).with_label(milestones.name)


def report_condition() -> dg.AutomationCondition[Any]:
    """The automation condition of `recall_report`: after each build of an index that passed its blocking checks."""
    condition = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
    return condition.with_label("after each build of the index that passed its checks")


def milestone_sensor(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    """The sensor that evaluates the conditions. The conditions are our own code, which Dagster's daemon can evaluate
    only in the process of the code location. Without `use_user_code_server` they would never be true, without any
    message."""
    built = {"vector_index": settings.builds_graphs, "vector_cells": settings.builds_cells}
    automated = [*(name for name, wanted in built.items() if wanted), "recall_report"]
    return dg.AutomationConditionSensorDefinition(
        job_name(settings, "index_at_milestones"),
        target=dg.AssetSelection.assets(*(asset_key(settings, name) for name in automated)),
        use_user_code_server=True,
        run_tags={LANE_TAG: "index", PRIORITY_TAG: str(INDEX)},
        # A milestone is seen within this time. One evaluation took 0.03 s with 410 partitions.
        minimum_interval_seconds=10,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Builds the index at milestones of loaded partitions, and measures its recall after each build.",
    )
