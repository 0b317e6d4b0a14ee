"""`laion-assets status`: shards at each stage, what the table holds, and whether all is well. It changes nothing.

If another process holds the embedded engine, it shows at once what Dagster recorded, and says that the table was not
read.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import dagster as dg
from rich.console import Console
from rich.table import Table

from laion_assets.errors import EngineHeldError
from laion_assets.health.builds import look_at_builds
from laion_assets.health.disk import free_bytes_of
from laion_assets.health.facts import read_facts
from laion_assets.health.finding import NAMED, Finding
from laion_assets.health.findings import judge
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.plan_against_actual import plan_against_actual
from laion_assets.health.under_way import RunUnderWay, other_active_runs
from laion_assets.plan.kept_plan import Compared
from laion_assets.recall.compare import best_by_kind
from laion_assets.recall.figures import Evaluation
from laion_assets.recall.judge import meets_target
from laion_assets.settings import Settings
from laion_assets.table.schema import PartitionState
from laion_assets.terminal.listing import listing_is_as_locked
from laion_assets.terminal.plan import comparison_table
from laion_assets.words import counted

MARKS = {True: "[green]✔[/]", False: "[red]✘[/]", None: "[yellow]?[/]"}
SHOWN = 10
"""How many active runs are named."""

STATES = ("loaded", "merged", "fetched", "missing", "running", "queued", "failed", "canceled", "stale")
"""The stages of shards, then the states of their last runs: a loaded shard whose next run failed counts in both."""


@dataclass(frozen=True)
class TableFacts:
    """What the table holds."""

    partitions: int
    rows: int
    bytes_on_disk: int
    indexed_partitions: int

    @classmethod
    def of(cls, states: list[PartitionState]) -> TableFacts:
        """The sums over the table's partitions."""
        return cls(
            partitions=len(states),
            rows=sum(state.rows for state in states),
            bytes_on_disk=sum(state.bytes_on_disk for state in states),
            indexed_partitions=sum(state.index_bytes > 0 for state in states),
        )


@dataclass(frozen=True)
class RecallFacts:
    """The last recall report: its rows and partitions, recall@10 by kind, the lower bounds of the intervals, and the
    kinds whose bound is below the target. Each kind has the figures of the method that finds most."""

    rows: int
    partitions: int
    index: str
    at_10: dict[str, float]
    at_10_low: dict[str, float]
    below_target: list[str]

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> RecallFacts | None:
        """The figures at the search settings that the report named; None without a report."""
        if not evaluations:
            return None
        evaluation, best = evaluations[0], best_by_kind(evaluations)
        return cls(
            rows=evaluation.rows,
            partitions=len(evaluation.shards),
            index=evaluation.index,
            at_10={kind: found.chosen(kind).at_10.mean for kind, found in best.items()},
            at_10_low={kind: found.chosen(kind).at_10.low for kind, found in best.items()},
            below_target=[kind for kind, found in best.items() if not meets_target(found, kind)],
        )


@dataclass(frozen=True)
class Status:
    """The state of a load: shards by state and their total, what the table holds, the last recall report, findings,
    active runs that are not about a shard, the shards with an active or failed run, and the plan of the last load
    compared with what happened.

    `table` is None if the table could not be read; `table_held` says which process holds it.
    """

    dataset: str
    shards: dict[str, int]
    of: int
    table: TableFacts | None
    table_held: str
    recall: RecallFacts | None
    findings: list[Finding]
    other_runs: list[RunUnderWay]
    running: list[ShardHistory]
    failed: list[ShardHistory]
    plan: list[Compared] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether no finding is bad. An unknown finding is not bad."""
        return all(finding.passed is not False for finding in self.findings)

    def as_json(self) -> dict[str, object]:
        """The status as a JSON object. The table's figures are null while another process holds the table."""
        facts = asdict(self)
        table = facts.pop("table") or dict.fromkeys(TableFacts.__dataclass_fields__)
        return {**facts, **table, "healthy": self.healthy}


def read_status(settings: Settings, instance: dg.DagsterInstance) -> Status:
    """Asks Dagster and the table, without waiting for either. Raises `TableError` if the table cannot be read although
    no other process holds it."""
    histories = read_histories(instance, settings)
    counts: Counter[str] = Counter(history.progress for history in histories)
    counts.update(history.last_run for history in histories)
    counts["stale"] = sum(bool(history.stale) for history in histories)
    table, builds = look_at_builds(settings, wait_seconds=0)
    facts = read_facts(instance, settings, histories, builds)
    return Status(
        dataset=settings.dataset.name,
        shards={state: counts[state] for state in STATES},
        of=len(histories),
        table=None if isinstance(table, EngineHeldError) else TableFacts.of(table),
        table_held=f"{table.subject}: {table.found}" if isinstance(table, EngineHeldError) else "",
        recall=RecallFacts.of(facts.evaluations),
        findings=[
            *judge(settings, histories, table, free_bytes_of(settings.data_dir), facts),
            *listing_is_as_locked(settings),
        ],
        other_runs=other_active_runs(instance, settings),
        running=[history for history in histories if history.active and history.run_id],
        failed=[history for history in histories if history.state == "failed"],
        plan=plan_against_actual(settings, instance, histories, table),
    )


def watch_status(settings: Settings, instance: dg.DagsterInstance, console: Console, seconds: float) -> None:
    """Shows the status every `seconds` in place of the one before, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt), console.screen():
        while True:
            status = read_status(settings, instance)
            console.clear()
            print_status(status, console)
            clock = time.strftime("%H:%M:%S")
            console.print(f"{clock}, again in {seconds:g} s; Ctrl-C ends", style="dim", highlight=False)
            time.sleep(seconds)


def print_status(status: Status, console: Console) -> None:
    """Prints the status as tables."""
    table = Table(*STATES, title=f"{status.dataset}: {counted(status.of, 'shard')}")
    table.add_row(*(str(status.shards[state]) for state in STATES))
    console.print(table)
    console.print(_table_line(status), markup=False, soft_wrap=True)
    if status.recall is not None:
        console.print(_recall_line(status.recall), markup=False, soft_wrap=True)
    if status.plan:
        console.print(comparison_table(status.plan))
    for run in status.other_runs:
        kind = "backfill" if run.backfill else "run"
        console.print(f"{run.what} {run.state}: {kind} {run.run_id}", markup=False, highlight=False)
    for history in status.running[:SHOWN]:
        console.print(f"shard {history.key} {history.state}: run {history.run_id}", markup=False, highlight=False)
    if len(status.running) > SHOWN:
        console.print(f"and {len(status.running) - SHOWN} more")
    for history in status.failed[NAMED:]:  # the finding below names the first ones
        console.print(f"shard {history.key} failed: {history.error}", style="red", markup=False)
    for finding in status.findings:
        console.print(f"{MARKS[finding.passed]} {finding.check}: ", end="")
        console.print(finding.seen, markup=False, highlight=False)


def _table_line(status: Status) -> str:
    table = status.table
    if table is None:
        return f"table: not read ({status.table_held}); the other lines show what Dagster recorded"
    return (
        f"table: {counted(table.rows, 'row')} in {counted(table.partitions, 'partition')}, "
        f"{table.bytes_on_disk / 1e9:.2f} GB on disk; {table.indexed_partitions} of them with a vector index"
    )


def _recall_line(recall: RecallFacts) -> str:
    figures = ", ".join(
        f"{kind.replace('_', ' ')} {mean:.3f} (at least {recall.at_10_low[kind]:.3f})"
        for kind, mean in recall.at_10.items()
    )
    low = f"; below the target: {', '.join(recall.below_target)}" if recall.below_target else ""
    return f"last recall@10, {recall.rows:,} rows in {recall.partitions} partitions: {figures}{low}"
