"""The order in which queued runs are started: the report, then the index, then a person's run, then bulk loads.

A backfill queues all its runs at once, and Dagster starts runs in the order in which they were queued. So the index of
a milestone would be built after the last shard. To prevent that, every run of ours gets two tags when it is queued,
also runs of the UI.
"""

from __future__ import annotations

from collections.abc import Iterable

from dagster import DagsterRun, QueuedRunCoordinator, SubmitRunContext

from laion_assets.dagster_internals.names import BACKFILL_TAG, PRIORITY_TAG
from laion_assets.dagster_internals.types import RunQueueConfig

LANE_TAG = "laion_assets/lane"
"""Tag: the kind of a run. dagster.yaml limits each kind separately (`tag_concurrency_limits`), so that loads that wait
for the pool do not take the places of a report or an index build."""

REPORT, INDEX, PERSON, BULK = 30, 20, 0, -1
"""Values of `dagster/priority`. The priority also decides which step gets the next free place in a pool."""

LANES = {
    **dict.fromkeys(("raw_shard", "merged_shard", "clickhouse_partition"), "load"),
    **dict.fromkeys(("vector_index", "vector_cells", "recall_report", "hnsw_tuning"), "index"),
    "load_report": "report",
}
"""The lane of each of our assets, by name."""

PRIORITIES = {"load_report": REPORT, **dict.fromkeys(("vector_index", "vector_cells", "recall_report"), INDEX)}


def job_tags(assets: Iterable[str]) -> dict[str, str]:
    """The tags of a job of these assets. Its runs have these tags under any queue, also without our coordinator."""
    lane = _lane(assets)
    priority = min(PRIORITIES.get(name, PERSON) for name in assets)
    return ({LANE_TAG: lane} if lane else {}) | ({PRIORITY_TAG: str(priority)} if priority != PERSON else {})


def queue_tags(run: DagsterRun) -> dict[str, str]:
    """The tags with which a run is queued; empty for runs that are not ours. Tags that were set before are kept."""
    names = {key.path[-1] for key in run.asset_selection or ()}
    names |= {key.asset_key.path[-1] for key in run.asset_check_selection or ()}
    lane = run.tags.get(LANE_TAG) or _lane(names)
    if not lane:
        return {}
    asked = BULK if BACKFILL_TAG in run.tags else PERSON
    priority = min((PRIORITIES.get(name, asked) for name in names), default=asked)
    tags = {LANE_TAG: lane, PRIORITY_TAG: str(priority)}
    return {name: value for name, value in tags.items() if name not in run.tags}


def _lane(assets: Iterable[str]) -> str:
    """The lane of a run of these assets: of several lanes, the one with most work; empty if no asset is ours."""
    lanes = {LANES[name] for name in assets if name in LANES}
    return next((lane for lane in ("load", "index", "report") if lane in lanes), "")


class PriorityRunCoordinator(QueuedRunCoordinator):
    """Dagster's queue, with the tags above on every run of ours.

    It also starts runs whose first steps all wait for a full pool. Dagster's own rule holds such runs back until a
    place in the pool is free at the moment of its check, once a second. Two loads that wait in their processes always
    took the place first.
    """

    def get_run_queue_config(self) -> RunQueueConfig:
        """The queue's configuration without that rule."""
        return super().get_run_queue_config()._replace(should_block_op_concurrency_limited_runs=False)

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tags the run, then queues it."""
        tags = queue_tags(context.dagster_run)
        if tags:
            self._instance.add_run_tags(context.dagster_run.run_id, tags)
        return super().submit_run(context)
