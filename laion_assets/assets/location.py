"""What every asset of one code location shares: settings, store, partitions, progress, how errors reach the UI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from laion_assets.errors import (
    EngineHeldError,
    LaionError,
    LeaseHeldError,
    LeaseLostError,
    MissingRawError,
    PermanentSourceError,
    ServerUnreachableError,
    SourceError,
    StoreError,
)
from laion_assets.health.keys import asset_key
from laion_assets.health.versions import code_version
from laion_assets.progress import LoggedProgress, Progress
from laion_assets.settings import EXTRA_COLUMN_TYPES, Settings
from laion_assets.shard.metadata import ColumnType
from laion_assets.shard.store import ShardStore

CLICKHOUSE_DOCS = "https://clickhouse.com/docs"

OWNERS = ["team:embeddings"]
POOL = "clickhouse"
"""Steps and checks that touch the table: one at a time on the embedded engine (dagster.yaml sets the limit)."""

Context = dg.AssetExecutionContext | dg.AssetCheckExecutionContext
Metadata = dict[str, RawMetadataValue]
ProgressOf = Callable[[dg.AssetExecutionContext], Progress]

IO_RETRY = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
"""For steps that do IO. Errors that a repetition cannot mend are raised with `allow_retries=False`."""

WORTH_RETRYING = (
    *(SourceError, StoreError),
    *(EngineHeldError, LeaseHeldError, LeaseLostError, ServerUnreachableError),
)
NOT_WORTH_RETRYING = (PermanentSourceError, MissingRawError)


@dataclass(frozen=True)
class CodeLocation:
    """The settings of a code location and what follows from them."""

    settings: Settings
    progress: ProgressOf = lambda context: LoggedProgress(context.log.info)

    @cached_property
    def shards(self) -> dg.StaticPartitionsDefinition:
        """One partition a shard, in the order of their numbers: "0" … "409"."""
        return dg.StaticPartitionsDefinition(self.settings.dataset.shard_keys)

    @cached_property
    def store(self) -> ShardStore:
        """The store of raw and merged files."""
        return ShardStore.of(self.settings)

    @cached_property
    def extra_columns(self) -> dict[str, ColumnType]:
        """The extra metadata columns that the settings ask for, with their types."""
        return {name: EXTRA_COLUMN_TYPES[name] for name in self.settings.extra_columns}

    @cached_property
    def freshness(self) -> dg.FreshnessPolicy:
        """Of assets over the whole table. Not for those by shard: Dagster looks at the last partition of all, and a
        corpus is loaded once."""
        return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=self.settings.fresh_days))

    def key(self, name: str) -> dg.AssetKey:
        """The key of one of our assets."""
        return asset_key(self.settings, name)

    def shard(self, context: Context) -> int:
        """The shard of the partition that a step or a check runs for."""
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
    **more: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Dagster's `asset` with what all of ours have in common; `more` is for what only one has.

    All are tried again where a repetition can mend it (`failing_clearly` says where): a table that is held for a moment
    must not cost a milestone, which is asked for once.
    """
    decorator: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key=location.key(name),
        description=description,
        deps=[location.key(dep) for dep in deps],
        group_name=group,
        kinds=kinds,
        owners=OWNERS,
        tags={"stage": stage} if stage else {},
        code_version=code_version(location.settings, name),
        partitions_def=location.shards if by_shard else None,
        retry_policy=IO_RETRY,
        pool=POOL if touches_table else None,
        **more,
    )
    return decorator


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
    """Dagster's `asset_check` with what all of ours have in common; tried again where it could not look."""
    return dg.asset_check(
        asset=location.key(asset),
        name=name,
        description=description,
        blocking=blocking,
        partitions_def=location.shards if by_shard else None,
        pool=POOL if touches_table else None,
        retry_policy=IO_RETRY,
    )


@contextlib.contextmanager
def failing_clearly() -> Iterator[None]:
    """Turns our typed errors into Dagster failures with their facts as metadata; others pass as they are."""
    try:
        yield
    except LaionError as error:
        raise _failure(error) from error


def check_failed(error: LaionError) -> dg.AssetCheckResult:
    """A check's answer when what it looks at is so wrong that it cannot be read.

    Raises `dagster.Failure` where it could not look at all, since another process holds the engine, or a server or a
    bucket does not answer: that says nothing of the data. The step is tried again, then it fails, and the check is
    neither passed nor failed.
    """
    failure = _failure(error)
    if failure.allow_retries:
        raise failure from error
    return dg.AssetCheckResult(passed=False, description=str(error), metadata={"found": error.found})


def _failure(error: LaionError) -> dg.Failure:
    worth_retrying = isinstance(error, WORTH_RETRYING) and not isinstance(error, NOT_WORTH_RETRYING)
    return dg.Failure(
        description=str(error),
        metadata={"subject": error.subject, "found": error.found, "expected": error.expected}
        | ({"what to do": error.advice} if error.advice else {}),
        allow_retries=worth_retrying,
    )
