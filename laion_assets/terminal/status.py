"""`laion-assets status`: shards at each stage by Dagster, and what the table holds. It changes nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import dagster as dg
from rich.console import Console
from rich.table import Table

from laion_assets.assets.location import CodeLocation
from laion_assets.automation.jobs import CHAIN
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions


@dataclass(frozen=True)
class StageCount:
    """Shards at one stage of the chain, by what Dagster recorded."""

    stage: str
    done: int
    failed: int
    running: int
    missing: int


@dataclass(frozen=True)
class Status:
    """The state of a load: shards by stage, and rows, bytes and partitions of the table."""

    dataset: str
    shards: int
    stages: list[StageCount]
    partitions: int
    rows: int
    bytes_on_disk: int
    indexed_partitions: int

    def as_json(self) -> dict[str, object]:
        """For machines: plain numbers and lists."""
        return asdict(self)


def read_status(settings: Settings, instance: dg.DagsterInstance) -> Status:
    """Asks Dagster and the table. Raises `TableError` when the table cannot be asked."""
    stages = [_count(instance, stage, CodeLocation(settings).shards) for stage in CHAIN]
    with connect(settings) as db:
        states = partitions(db)
    return Status(
        dataset=settings.dataset.name,
        shards=settings.dataset.shards,
        stages=stages,
        partitions=len(states),
        rows=sum(state.rows for state in states),
        bytes_on_disk=sum(state.bytes_on_disk for state in states),
        indexed_partitions=sum(state.index_bytes > 0 for state in states),
    )


def print_status(status: Status, console: Console) -> None:
    """The status as a table."""
    table = Table("stage", "done", "failed", "running", "missing", title=f"{status.dataset}: {status.shards} shards")
    for stage in status.stages:
        table.add_row(
            stage.stage, f"[green]{stage.done}", f"[red]{stage.failed}", str(stage.running), str(stage.missing)
        )
    console.print(table)
    console.print(
        f"table: {status.rows:,} rows in {status.partitions} partitions, "
        f"{status.bytes_on_disk / 1e9:.2f} GB on disk; {status.indexed_partitions} partitions have a vector index"
    )


def _count(instance: dg.DagsterInstance, stage: str, shards: dg.PartitionsDefinition) -> StageCount:
    keys = shards.get_partition_keys()
    found = instance.get_status_by_partition(dg.AssetKey(stage), keys, shards) or {}
    names = [status.name for status in found.values() if status is not None]
    done, failed, running = (names.count(name) for name in ("MATERIALIZED", "FAILED", "IN_PROGRESS"))
    return StageCount(stage, done, failed, running, len(keys) - done - failed - running)
