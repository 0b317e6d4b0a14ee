"""A check by shard: its decorator, and its sweep over all loaded shards when it is executed without a partition."""

import time
from collections.abc import Callable, Iterator

import dagster as dg

from laion_assets.assets.location import CodeLocation, Metadata, asset_check
from laion_assets.dagster_internals.records import AssetCheckEvaluationTargetMaterializationData
from laion_assets.health.facts import SWEEP_RUN
from laion_assets.health.finding import naming
from laion_assets.shard_numbers import as_ranges
from laion_assets.words import counted, lasting

LOG_SECONDS = 30.0
"""A check of all shards logs its progress at this interval."""

CheckShard = Callable[[dg.AssetCheckExecutionContext, int], dg.AssetCheckResult]


def shard_check(
    location: CodeLocation,
    asset: str,
    name: str,
    description: str,
    *,
    there: Callable[[int], bool] = lambda _shard: True,
    touches_table: bool = False,
) -> Callable[[CheckShard], dg.AssetChecksDefinition]:
    """Makes a blocking check with the partitions of its asset from a function that checks one shard.

    `there` says whether a loaded shard still has the files to be checked: raw files may be gone after the merge.
    """

    def decorate(look: CheckShard) -> dg.AssetChecksDefinition:
        @asset_check(location, asset, name, description, blocking=True, by_shard=True, touches_table=touches_table)
        def check(
            context: dg.AssetCheckExecutionContext,
        ) -> Iterator[dg.AssetCheckResult | dg.AssetCheckEvaluation | dg.Output[None]]:
            if context.has_partition_key:
                yield look(context, location.shard(context))
                return
            # Dagster cannot turn a result into an evaluation if the check has partitions and the run has none.
            key = dg.AssetCheckKey(location.key(asset), name)
            yield _Sweep(location, context, key, look).run(there)
            yield dg.Output(None, context.op_execution_context.op_def.output_defs[0].name)

        return check

    return decorate


class _Sweep:
    """One check of all loaded shards, in the order of their last check, oldest first, for LAION_SWEEP_HOURS at most.

    The result of each shard is recorded for its partition at once, so that it is kept if the process ends in the
    middle.
    """

    def __init__(
        self,
        location: CodeLocation,
        context: dg.AssetCheckExecutionContext,
        key: dg.AssetCheckKey,
        look: CheckShard,
    ) -> None:
        self.location, self.context, self.key, self.look = location, context, key, look
        self.instance = context.instance
        self.failed: dict[int, str] = {}

    def run(self, there: Callable[[int], bool]) -> dg.AssetCheckEvaluation:
        """Checks each shard; the result says which failed, and how many were not reached in time."""
        shards = [shard for shard in self._oldest_first() if there(shard)]
        begun = said = time.monotonic()
        checked = 0
        for shard in shards:
            if time.monotonic() - begun > self.location.settings.sweep_hours * 3600:
                break
            self._check(shard)
            checked += 1
            if time.monotonic() - said > LOG_SECONDS or checked == len(shards):
                said = time.monotonic()
                self.context.log.info(
                    f"{checked} of {counted(len(shards), 'shard')} checked, {len(self.failed)} failed"
                )
        return self._result(len(shards), checked, time.monotonic() - begun)

    def _check(self, shard: int) -> None:
        found = self.look(self.context, shard)
        if not found.passed:
            self.failed[shard] = found.description or "failed"
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=self.key.asset_key,
                check_name=self.key.name,
                passed=found.passed,
                metadata={**found.metadata, SWEEP_RUN: self.context.run.run_id},
                target_materialization_data=self._materialization(shard),
                severity=found.severity,
                description=found.description,
                partition=self._key_of(shard),
            )
        )

    def _result(self, shards: int, checked: int, seconds: float) -> dg.AssetCheckEvaluation:
        said = f"{checked} of {counted(shards, 'shard')} checked in {lasting(seconds)}, {len(self.failed)} failed"
        if self.failed:
            said += f": {naming([f'shard {shard}: {why}' for shard, why in self.failed.items()])}"
        if checked < shards:
            said += f"; the other {shards - checked} were not reached within LAION_SWEEP_HOURS: execute it again"
        metadata: Metadata = {"checked": checked, "failed": len(self.failed), "not_reached": shards - checked}
        if self.failed:
            metadata["failed_shards"] = as_ranges(self.failed)
        return dg.AssetCheckEvaluation(
            self.key.asset_key, self.key.name, passed=not self.failed, metadata=metadata, description=said
        )

    def _oldest_first(self) -> list[int]:
        """The loaded shards of the dataset by the time of this check's last result for each; shards that were never
        checked come first."""
        loaded = self.instance.get_latest_storage_id_by_partition(
            self.location.key("clickhouse_partition"), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        infos = self.instance.event_log_storage.get_asset_check_partition_info([self.key])
        last = {info.partition_key: info.latest_check_event_storage_id or 0 for info in infos}
        known = [(last.get(self._key_of(shard), 0), shard) for shard in self.location.settings.dataset.shards]
        return [shard for _, shard in sorted(known) if self._key_of(shard) in loaded]

    def _key_of(self, shard: int) -> str:
        return self.location.settings.dataset.key_of(shard)

    def _materialization(self, shard: int) -> AssetCheckEvaluationTargetMaterializationData | None:
        """The materialization that the check was about, so that the UI shows the result beside it."""
        wanted = dg.AssetRecordsFilter(self.key.asset_key, asset_partitions=[self._key_of(shard)])
        record = next(iter(self.instance.fetch_materializations(wanted, limit=1).records), None)
        if record is None:
            return None
        return AssetCheckEvaluationTargetMaterializationData(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
