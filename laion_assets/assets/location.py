"""What all assets of one code location share: settings, store, partitions, progress, how errors reach the UI."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar

import dagster as dg

from laion_assets.assets.accepted_rows import require_asked_again
from laion_assets.assets.same_settings import require_same_settings
from laion_assets.assets.source_links import source_of
from laion_assets.automation.milestones import MilestoneCondition, index_condition
from laion_assets.columns import ColumnType
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.dagster_internals.types import RawMetadataValue
from laion_assets.errors import (
    EngineHeldError,
    LaionError,
    LeaseHeldError,
    LeaseLostError,
    MissingRawError,
    PermanentSourceError,
    ServerBusyError,
    ServerUnreachableError,
    SourceError,
    StoreError,
    UnreachableSourceError,
)
from laion_assets.execution.termination import RunWatch
from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.health.merges import ERROR, recorded_raw
from laion_assets.health.versions import code_version
from laion_assets.progress import LoggedProgress, Progress
from laion_assets.settings import Settings
from laion_assets.shard.loadable import merged_meanwhile
from laion_assets.shard.merged import MergedShard
from laion_assets.shard.store import ShardStore
from laion_assets.table.label import labelled

CLICKHOUSE_DOCS = "https://clickhouse.com/docs"

POOL = "clickhouse"
"""Steps and checks that touch the table: one at a time on the embedded engine (dagster.yaml sets the limit)."""

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Metadata = dict[str, RawMetadataValue]
Result = TypeVar("Result")
ProgressOf = Callable[[dg.AssetExecutionContext], Progress]

REPETITIONS = 3
FIRST_WAIT_SECONDS = 5.0
"""A step that failed because something was missing that may come back is repeated after 5, 10 and 20 s, give or take a
third.

There is no retry policy: Dagster applies a retry policy to interrupts, too, so that a terminated run began again."""

WORTH_REPEATING = (
    *(SourceError, StoreError),
    *(EngineHeldError, LeaseHeldError, LeaseLostError, ServerBusyError, ServerUnreachableError),
)
NOT_WORTH_REPEATING = (PermanentSourceError, UnreachableSourceError, MissingRawError)


@dataclass(frozen=True)
class CodeLocation:
    """The settings of a code location and what is derived from them."""

    settings: Settings
    progress: ProgressOf = lambda context: LoggedProgress(context.log.info)

    @cached_property
    def shards(self) -> dg.StaticPartitionsDefinition:
        """One partition a shard, in the order of their numbers: "0" … "409", or names."""
        return dg.StaticPartitionsDefinition(self.settings.dataset.shard_keys)

    @cached_property
    def store(self) -> ShardStore:
        """The store of raw and merged files."""
        return ShardStore.of(self.settings)

    @property
    def extra_columns(self) -> dict[str, ColumnType]:
        """The extra metadata columns that the table carries, with their types."""
        return self.settings.extra_column_types

    @cached_property
    def freshness(self) -> dg.FreshnessPolicy:
        """The policy of the report, which a schedule makes again and again. A corpus is loaded once, so loaded data has
        no such policy. Whether the index is as new as the loaded data is told by the check `index_follows_loads`."""
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=self.settings.fresh_hours))

    def key(self, name: str) -> dg.AssetKey:
        """The key of one of our assets."""
        return asset_key(self.settings, name)

    def merged_meanwhile(self, context: Context, shard: int) -> MergedShard | None:
        """The merged file of a shard if this run fetched its raw files, and another run has merged and removed them
        since.

        The merged file names the raw files that it was made from, and these must be those that were recorded last.
        """
        if self.key("raw_shard") not in context.job_def.asset_layer.selected_asset_keys:
            return None
        return merged_meanwhile(
            self.store,
            shard,
            recorded_raw(context.instance, self.settings, shard),
            max_bad_fraction=self.settings.max_bad_fraction,
            extra_columns=self.settings.extra_column_types,
        )

    def milestones(self, parameters: str = "") -> dg.AutomationCondition[Any]:
        """The condition of assets that are built over all loaded partitions; `parameters` are the index's, as text."""
        return index_condition(
            MilestoneCondition(
                self.key("clickhouse_partition"),
                first=self.settings.index_first,
                step=self.settings.index_step,
                keys={shard: self.settings.dataset.key_of(shard) for shard in self.settings.dataset.shards},
                parameters=parameters,
            )
        )

    def shard(self, context: Context) -> int:
        """The shard of the partition for which a step or a check runs."""
        return self.settings.dataset.shard_number(context.partition_key)


def asset(
    location: CodeLocation,
    name: str,
    description: str,
    *,
    group: str,
    kinds: set[str],
    deps: Sequence[str] = (),
    stage: str = "",
    by_shard: bool = False,
    touches_table: bool = False,
    metadata: Mapping[str, RawMetadataValue] | None = None,
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Dagster's `asset` with the arguments that all our assets share."""

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        decorator = dg.asset(
            key=location.key(name),
            description=description,
            deps=[location.key(dep) for dep in deps],
            group_name=group,
            kinds=kinds,
            owners=[*location.settings.owners],
            tags={"stage": stage} if stage else {},
            code_version=code_version(location.settings, name),
            partitions_def=location.shards if by_shard else None,
            pool=POOL if touches_table else None,
            metadata={**(metadata or {}), **source_of(location.settings, function)},
            automation_condition=automation_condition,
        )
        return decorator(as_step(location, name)(function))

    return decorate


def asset_check(
    location: CodeLocation,
    asset: str,
    name: str,
    description: str,
    *,
    blocking: bool = False,
    by_shard: bool = False,
    touches_table: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetChecksDefinition]:
    """Dagster's `asset_check` with the arguments that all our checks share."""
    decorator = dg.asset_check(
        asset=location.key(asset),
        name=name,
        description=description,
        blocking=blocking,
        partitions_def=location.shards if by_shard else None,
        pool=POOL if touches_table else None,
    )
    return lambda function: decorator(as_step(location, asset)(function))


def as_step(location: CodeLocation, asset: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Makes a step's statements name its run, asset and partition to ClickHouse (`log_comment`), and end when the run
    is to end, under any executor.

    The step raises `dagster.Failure` if the run was asked for under other settings than the code location's, or if it
    would load accepted rows again (`accepted_rows.py`).
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def step(*arguments: Any, **named: Any) -> Result:
            with in_run(location.settings, asset):
                return function(*arguments, **named)

        return step

    return decorate


@contextlib.contextmanager
def in_run(settings: Settings, asset: str) -> Iterator[None]:
    """Labels the connections of a step of this asset, and watches over it. Raises `dagster.Failure` as `as_step`
    says."""
    try:
        context = dg.OpExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # called outside a run
        yield
        return
    run, step = context.run, context.get_step_execution_context().step.key
    require_same_settings(settings, run)
    partition = run.tags.get(PARTITION_TAG)
    if partition and asset in CHAIN:
        require_asked_again(settings, context, partition)
    label = {"run_id": run.run_id, "asset": asset} | ({"partition": partition} if partition else {})
    with RunWatch(context.instance, run, step), labelled(**label):
        yield


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Turns our typed errors into Dagster failures with their facts as metadata; other errors pass unchanged.

    Raises `dagster.RetryRequested` for errors that a repetition can correct: a milestone must not be lost because
    another process holds the table for a moment.
    """
    try:
        yield
    except LaionError as error:
        if may_pass(error):
            raise _repetition() from _failure(error)
        raise _failure(error) from error


def check_failed(error: LaionError) -> dg.AssetCheckResult:
    """A check's result when the data that it checks is so wrong that it cannot be read.

    Raises `dagster.RetryRequested` if the check could not read at all because another process holds the engine, or a
    server or a bucket does not answer: that says nothing about the data. The step is repeated. If it fails again, the
    check has neither passed nor failed.
    """
    if may_pass(error):
        raise _repetition() from _failure(error)
    return dg.AssetCheckResult(passed=False, description=str(error), metadata={"found": error.found})


def may_pass(error: LaionError) -> bool:
    """Whether the same step may succeed later without anybody's help."""
    return isinstance(error, WORTH_REPEATING) and not isinstance(error, NOT_WORTH_REPEATING)


def _repetition() -> dg.RetryRequested:
    try:
        done = dg.OpExecutionContext.get().retry_number
    except dg.DagsterInvariantViolationError:  # called outside a run
        done = 0
    wait = FIRST_WAIT_SECONDS * 2**done * random.uniform(2 / 3, 4 / 3)
    return dg.RetryRequested(max_retries=REPETITIONS, seconds_to_wait=wait)


def _failure(error: LaionError) -> dg.Failure:
    return dg.Failure(
        description=str(error),
        metadata={
            ERROR: type(error).__name__,
            "subject": error.subject,
            "found": error.found,
            "expected": error.expected,
        }
        | ({"what to do": error.advice} if error.advice else {}),
        allow_retries=False,
    )
