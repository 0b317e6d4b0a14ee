"""`laion-assets status`: shards at each stage, what the table holds, and whether all is well. It changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

import dagster as dg
from rich.console import Console
from rich.table import Table

from laion_assets.health.findings import Finding, free_bytes, judge
from laion_assets.health.history import ShardHistory, ShardState, read_histories
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions

STATES: tuple[ShardState, ...] = ("loaded", "merged", "fetched", "running", "queued", "failed", "missing")


@dataclass(frozen=True)
class Status:
    """The state of a load: shards by state, what the table holds, findings, and the shards that failed with why."""

    dataset: str
    shards: dict[str, int]
    partitions: int
    rows: int
    bytes_on_disk: int
    indexed_partitions: int
    findings: list[Finding]
    failed: list[ShardHistory]

    @property
    def healthy(self) -> bool:
        """Whether every finding is good."""
        return all(finding.passed for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """For machines: plain numbers, texts and lists."""
        return {**asdict(self), "healthy": self.healthy}


def read_status(settings: Settings, instance: dg.DagsterInstance) -> Status:
    """Asks Dagster and the table. Raises `TableError` when the table cannot be asked."""
    histories = read_histories(instance, settings.dataset.shard_keys)
    counts = Counter(history.state for history in histories)
    with connect(settings) as db:
        loaded = partitions(db)
    return Status(
        dataset=settings.dataset.name,
        shards={state: counts[state] for state in STATES},
        partitions=len(loaded),
        rows=sum(state.rows for state in loaded),
        bytes_on_disk=sum(state.bytes_on_disk for state in loaded),
        indexed_partitions=sum(state.index_bytes > 0 for state in loaded),
        findings=judge(settings, histories, loaded, free_bytes(settings.data_dir)),
        failed=[history for history in histories if history.state == "failed"],
    )


def print_status(status: Status, console: Console) -> None:
    """The status as tables."""
    table = Table(*STATES, title=f"{status.dataset}: {sum(status.shards.values())} shards")
    table.add_row(*(str(status.shards[state]) for state in STATES))
    console.print(table)
    console.print(
        f"table: {status.rows:,} rows in {status.partitions} partitions, "
        f"{status.bytes_on_disk / 1e9:.2f} GB on disk; {status.indexed_partitions} partitions have a vector index"
    )
    for history in status.failed:
        console.print(f"shard {history.key} failed: {history.error}", style="red", markup=False)
    for finding in status.findings:
        console.print(f"{'[green]✔' if finding.passed else '[red]✘'}[/] {finding.check}: ", end="")
        console.print(finding.seen, markup=False, highlight=False)
