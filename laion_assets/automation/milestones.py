"""When the index is built: a declarative condition, true at milestones of loaded partitions. It builds nothing."""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster import AssetKey, DagsterEventType, DagsterInstance
from dagster._core.definitions.declarative_automation.automation_context import AutomationContext

from laion_assets.health.history import COVERED_SHARDS, LOADS_SEEN
from laion_assets.health.keys import asset_key
from laion_assets.health.words import shards_of
from laion_assets.settings import Settings


def milestone(loaded: int, *, first: int, step: int, total: int) -> int:
    """The greatest milestone that `loaded` partitions have reached: 0, `first`, `first + step`, …, and `total`."""
    if loaded >= total:
        return total
    if loaded < first:
        return 0
    return first + (loaded - first) // step * step


class MilestoneCondition(dg.AutomationCondition[AssetKey]):
    """True when loaded partitions reached a milestone that the index does not cover, or covered ones were loaded again.

    It is edge-triggered: what it asked for is its cursor, so that one milestone is asked for once, also when the run
    failed; the next milestone asks again. Without a cursor (a new sensor) it goes by the last materialization.
    """

    def __init__(self, partitioned: AssetKey, first: int, step: int, total: int) -> None:
        self.partitioned = partitioned
        self.first, self.step, self.total = first, step, total

    @property
    def name(self) -> str:
        """The label in the UI's automation view; with its parameters, since a change of them is another condition."""
        return f"{self.first} partitions loaded, then every {self.step} more, and the last; or loaded again"

    def evaluate(self, context: AutomationContext[AssetKey]) -> dg.AutomationResult[AssetKey]:
        """Compares what is loaded with what the last materialization covered."""
        wanted = self.wanted(context.asset_graph_view.instance, context.key)
        nothing = context.get_empty_subset()
        # An empty candidate means that a run is under way: what is wanted now is asked for after it.
        if wanted is None or wanted == context.cursor or context.candidate_subset.is_empty:
            return dg.AutomationResult(context, nothing, cursor=context.cursor)
        return dg.AutomationResult(context, context.candidate_subset, cursor=wanted)

    def wanted(self, instance: DagsterInstance, key: AssetKey) -> str | None:
        """What should be built now, as a text that differs for every such occasion; None for nothing."""
        loaded = instance.get_latest_storage_id_by_partition(self.partitioned, DagsterEventType.ASSET_MATERIALIZATION)
        covered, since = _last_cover(instance, key)
        reached = self._milestone(len(loaded))
        again = max((loaded[shard] for shard in covered if loaded.get(shard, 0) > since), default=0)
        if again:
            return f"{reached} partitions, loaded again up to event {again}"
        return f"{reached} partitions" if reached > self._milestone(len(covered)) else None

    def _milestone(self, loaded: int) -> int:
        return milestone(loaded, first=self.first, step=self.step, total=self.total)


def _last_cover(instance: DagsterInstance, key: AssetKey) -> tuple[set[str], int]:
    """The partitions that the last materialization covered, and the event after which loads are newer than its build.

    The build notes that itself, when it begins: a run may have waited in the queue while more partitions were loaded,
    and those it covers are no news. Without the note it is the event that planned the run.
    """
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return set(), 0
    recorded = event.asset_materialization.metadata.get(COVERED_SHARDS)
    covered = {str(shard) for shard in shards_of(str(recorded.value))} if recorded is not None else set()
    seen = event.asset_materialization.metadata.get(LOADS_SEEN)
    if seen is not None and isinstance(seen.value, int):
        return covered, seen.value
    record = instance.fetch_materializations(key, limit=1).records[0]
    planned = instance.get_latest_planned_materialization_info(key)
    same_run = planned is not None and planned.run_id == event.run_id
    return covered, planned.storage_id if planned is not None and same_run else record.storage_id


def index_condition(partitioned: AssetKey, *, first: int, step: int, total: int) -> dg.AutomationCondition[Any]:
    """The automation condition of `vector_index`."""
    milestones = MilestoneCondition(partitioned, first, step, total)
    return (~dg.AutomationCondition.in_progress() & milestones).with_label(milestones.name)


def report_condition() -> dg.AutomationCondition[Any]:
    """The automation condition of `recall_report`: after each materialization of the index."""
    return dg.AutomationCondition.eager().with_label("after each build of the index")


def milestone_sensor(settings: Settings) -> dg.AutomationConditionSensorDefinition:
    """What evaluates the two conditions. They are code of ours, which Dagster's daemon evaluates only in the code
    location's own process: without `use_user_code_server` they would never be true, and nothing would say so."""
    return dg.AutomationConditionSensorDefinition(
        "index_at_milestones",
        target=dg.AssetSelection.assets(*(asset_key(settings, name) for name in ("vector_index", "recall_report"))),
        use_user_code_server=True,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Builds the index at milestones of loaded partitions, and measures its recall after each build.",
    )
