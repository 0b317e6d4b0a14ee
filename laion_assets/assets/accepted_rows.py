"""Whether a run may load a partition whose rows somebody accepted (`laion-assets accept`), as after a takedown."""

from __future__ import annotations

import dagster as dg

from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.health.recorded_rows import AGAIN_TAG, recorded_rows
from laion_assets.settings import Settings


def require_asked_again(settings: Settings, context: dg.OpExecutionContext, key: str) -> None:
    """Raises `dagster.Failure` if the run loads the accepted partition `key` and has no tag `AGAIN_TAG`.

    A backfill over all partitions may have been asked for by somebody who knows nothing of the takedown, or before it.
    The first step of the run fails, so that nothing is fetched in vain.
    """
    run, load = context.run, asset_key(settings, CHAIN[-1])
    if run.tags.get(AGAIN_TAG) == "true" or load not in context.job_def.asset_layer.selected_asset_keys:
        return
    if recorded_rows(context.instance, settings, settings.dataset.shard_number(key)).accepted:
        raise dg.Failure(
            f"partition {key}: found rows that were accepted as the table had them, expected a run that was asked for "
            f"by `laion-assets load --again {key}`, or that has the tag {AGAIN_TAG}: true; the partition was not "
            f"changed. `laion-assets accept {key}` takes this failure off the list",
            allow_retries=False,
        )
