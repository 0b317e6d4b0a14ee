"""A check by shard: its decorator, and its sweep over all loaded shards when it is executed without a partition."""

import time
from collections.abc import Callable, Iterator

import dagster as dg

from laion_assets.assets.location import CodeLocation, Metadata, asset_check
from laion_assets.dagster_internals.records import AssetCheckEvaluationTargetMaterializationData
from laion_assets.errors import EngineHeldError
from laion_assets.health.finding import naming
from laion_assets.health.runs import FAILED_SHARDS, SWEEP_RUN, UNREAD_SHARDS
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
    middle. If a shard failed, the run fails: its alert names the shards, also if others failed in the last sweep. If no
    shard was looked at, the result is a warning. A shard that could not be looked at has no result and does not end the
    sweep: with the oldest result it comes first in each, so that no other shard would be checked any more.
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
        self.unread: dict[int, str] = {}

    def run(self, there: Callable[[int], bool]) -> dg.AssetCheckEvaluation:
        """Checks each shard; the result says which failed, which could not be looked at, and how many were not reached
        in time. Raises the last error if no shard could be looked at, and at once if another process holds the engine:
        then none can."""
        shards = [shard for shard in self._oldest_first() if there(shard)]
        begun = said = time.monotonic()
        checked, last = 0, None
        for shard in shards:
            if time.monotonic() - begun > self.location.settings.sweep_hours * 3600:
                break
            try:
                found = self.look(self.context, shard)
            except Exception as error:
                if isinstance(error.__context__, EngineHeldError):
                    raise
                last, self.unread[shard] = error, _reason(error)
                self.context.log.warning(f"shard {shard} could not be checked: {self.unread[shard]}")
            else:
                self._record(shard, found)
            checked += 1
            if time.monotonic() - said > LOG_SECONDS or checked == len(shards):
                said = time.monotonic()
                self.context.log.info(
                    f"{checked} of {counted(len(shards), 'shard')} checked, {len(self.failed)} failed"
                )
        if last is not None and len(self.unread) == checked:
            raise last
        return self._result(len(shards), checked, time.monotonic() - begun)

    def _record(self, shard: int, found: dg.AssetCheckResult) -> None:
        if not found.passed:
            self.failed[shard] = found.description or "failed"
        run = self.context.run
        evaluation = dg.AssetCheckEvaluation(
            asset_key=self.key.asset_key,
            check_name=self.key.name,
            passed=found.passed,
            metadata={**found.metadata, SWEEP_RUN: run.run_id},
            target_materialization_data=self._materialization(shard),
            severity=found.severity,
            description=found.description,
            partition=self._key_of(shard),
        )
        # Dagster's storage takes one result of a check and a partition from each run. For `report_runless_asset_event`
        # all sweeps would be one run, and each after the first would fail.
        kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
        event = dg.DagsterEvent(kind, run.job_name, event_specific_data=evaluation)
        self.instance.report_dagster_event(event, run.run_id)

    def _result(self, shards: int, checked: int, seconds: float) -> dg.AssetCheckEvaluation:
        looked_at, late = checked - len(self.unread), shards - checked
        said = f"{looked_at} of {counted(shards, 'shard')} checked in {lasting(seconds)}, {len(self.failed)} failed"
        if self.failed:
            said += f": {_named(self.failed)}"
        if self.unread:
            said += f"; {len(self.unread)} could not be checked: {_named(self.unread)}"
        if late:
            said += f"; the other {late} were not reached within LAION_SWEEP_HOURS: execute the check again"
        if not shards:
            said = "nothing was checked: no loaded shard has the files that this check reads"
        metadata: Metadata = {"checked": looked_at, "failed": len(self.failed), "not_reached": late}
        if self.failed:
            metadata[FAILED_SHARDS] = as_ranges(self.failed)
        if self.unread:
            metadata[UNREAD_SHARDS] = as_ranges(self.unread)
        return dg.AssetCheckEvaluation(
            self.key.asset_key,
            self.key.name,
            passed=bool(looked_at) and not self.failed and not self.unread,
            # As for a single shard: the run of a check that found bad shards fails.
            blocking=True,
            # That a shard could not be looked at says nothing about it.
            severity=dg.AssetCheckSeverity.ERROR if self.failed else dg.AssetCheckSeverity.WARN,
            metadata=metadata,
            description=said,
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


def _named(shards: dict[int, str]) -> str:
    return naming([f"shard {shard}: {why}" for shard, why in shards.items()])


def _reason(error: Exception) -> str:
    """An error in words; a request to try again has the error before it as its cause."""
    cause = error.__cause__ if isinstance(error, dg.RetryRequested) else error
    said = cause.description if isinstance(cause, dg.Failure) else f"{type(cause).__name__}: {cause}"
    return said or "unknown"
