"""Whether a run may load a partition whose rows somebody accepted (`laion-assets accept`), as after a takedown."""

from __future__ import annotations

import dagster as dg

from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.health.recorded_rows import AGAIN_TAG, recorded_rows
from laion_assets.settings import Settings


def require_asked_again(settings: Settings, context: dg.OpExecutionContext, key: str) -> None:
    """Raises `dagster.Failure` if the run loads the accepted partition `key`, unless it has the tag `AGAIN_TAG` and was
    asked for after the rows were accepted.

    A re-executed run has the tags of the run before, and a run may wait in the queue for hours. A backfill over all
    partitions may have been asked for by somebody who knows nothing of the takedown, or before it. The first step of
    the run fails, so that nothing is fetched in vain.
    """
    run, load = context.run, asset_key(settings, CHAIN[-1])
    if load not in context.job_def.asset_layer.selected_asset_keys:
        return
    recorded = recorded_rows(context.instance, settings, settings.dataset.shard_number(key))
    asked_again = run.tags.get(AGAIN_TAG) == "true" and _asked_at(context) > recorded.at
    if recorded.accepted and not asked_again:
        raise dg.Failure(
            f"partition {key}: found rows that were accepted as the table had them, expected a run that was asked for "
            f"since then by `laion-assets load --again {key}`, or with the tag {AGAIN_TAG}: true; the partition is "
            f"unchanged. `laion-assets accept {key}` takes this failure off the list",
            allow_retries=False,
        )


def _asked_at(context: dg.OpExecutionContext) -> float:
    """When the run, or the run that it repeats, was created (Unix time), at the end of that second: SQLite keeps no
    fractions."""
    record = context.instance.get_run_record_by_id(context.run.root_run_id or context.run.run_id)
    return 0.0 if record is None else record.create_timestamp.timestamp() + 1
