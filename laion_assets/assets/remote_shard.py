"""`remote_shard`: the version of each shard's files at their sources, so that a change shows as a stale partition."""

from concurrent.futures import ThreadPoolExecutor

import dagster as dg

from laion_assets.assets.location import CodeLocation
from laion_assets.assets.source_links import source_of
from laion_assets.dagster_internals.names import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG, KIND_PREFIX
from laion_assets.errors import LaionError
from laion_assets.health.versions import Observed, last_observed
from laion_assets.source.observe import observe_version
from laion_assets.words import counted

SHARDS_AT_ONCE = 8
"""Shards that are asked for side by side. Each takes three small requests, a load that a mirror does not notice."""


def remote_shard_asset(location: CodeLocation) -> dg.SourceAsset:
    """The observable source asset. It asks only for shards that were fetched once: others cannot be stale."""

    @dg.observable_source_asset(
        key=location.key("remote_shard"),
        partitions_def=location.shards,
        group_name="shards",
        metadata=source_of(location.settings, remote_shard_asset),
        tags={"stage": "remote", f"{KIND_PREFIX}http": ""},
        description="The remote files of shard N: size with ETag or date, as the data version that raw_shard is made "
        "from. If a file changes, the partitions that were made from it are shown as stale. The run fails "
        "if no source could be observed.",
    )
    def remote_shard(context: dg.OpExecutionContext) -> dg.DataVersionsByPartition:
        fetched = context.instance.get_latest_storage_id_by_partition(
            location.key("raw_shard"), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        # In the order of their numbers. Keys of another dataset that this instance had before are left out.
        dataset = location.settings.dataset
        shards = [number for number in dataset.shards if dataset.key_of(number) in fetched]
        recorded = last_observed(context.instance, location.settings)
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
            versions = pool.map(lambda shard: _version(location, shard, recorded.get(dataset.key_of(shard))), shards)
            seen = dict(zip(shards, versions, strict=True))
        failed = {shard: version for shard, version in seen.items() if isinstance(version, LaionError)}
        for error in failed.values():
            context.log.warning(f"not observed: {error}")
        context.log.info(f"{len(seen) - len(failed)} shards observed, {len(failed)} could not be observed")
        if failed and len(failed) == len(seen):
            first = next(iter(failed.values()))
            raise dg.Failure(
                f"no source could be observed, so whether {counted(len(seen), 'shard')} are stale is unknown: {first}",
                allow_retries=False,
            )
        return dg.DataVersionsByPartition(
            {dataset.key_of(shard): version for shard, version in seen.items() if isinstance(version, str)}
        )

    return remote_shard


def observe_before_fetch(context: dg.AssetExecutionContext, location: CodeLocation, shard: int) -> str | None:
    """Records the remote files' version just before they are fetched, as the version of this step's input; None if no
    source could be asked.

    Otherwise the first observation after the fetch would look like a change. Dagster reads the versions of inputs
    before a step begins, so this function makes Dagster read them once more.
    """
    recorded = last_observed(context.instance, location.settings, {context.partition_key})
    version = _version(location, shard, recorded.get(context.partition_key))
    if isinstance(version, LaionError):
        context.log.warning(f"not observed: {version}")
        return None
    tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    context.log_event(dg.AssetObservation(location.key("remote_shard"), partition=context.partition_key, tags=tags))
    context.op_execution_context.get_step_execution_context().fetch_external_input_asset_version_info()
    return version


def _version(location: CodeLocation, shard: int, before: Observed | None) -> str | LaionError:
    """The version of the shard's files as they are now, or the error why it is not known."""
    try:
        return observe_version(location.settings, shard, None if before is None else before.version)
    except LaionError as error:
        return error
