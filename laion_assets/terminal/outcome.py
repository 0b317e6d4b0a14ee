"""The outcome of one shard of a load: its row in the table of results, and the end of its bar."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from laion_assets.settings import Settings
from laion_assets.terminal.bars import ShardBars


@dataclass(frozen=True)
class Outcome:
    """The outcome of one shard: rows in the table, seconds, and why it failed. `left` says why a partition that
    differs from what was recorded was not loaded again, which is no failure."""

    shard: int
    rows: int
    seconds: float
    error: str = ""
    skipped: bool = False
    left: str = ""


def outcome_table(outcomes: list[Outcome]) -> Table:
    """A row for each shard: whether it succeeded, or why it failed."""
    table = Table("shard", "result", "rows", "seconds", "rows/s", "why", title="load_shards")
    for name in ("shard", "rows", "seconds", "rows/s"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for outcome in outcomes:
        result = "[red]failed" if outcome.error else "was loaded" if outcome.skipped else "[green]loaded"
        result = "[yellow]left as it is" if outcome.left else result
        rate = f"{outcome.rows / outcome.seconds:,.0f}" if outcome.seconds and outcome.rows else ""
        table.add_row(
            str(outcome.shard),
            result,
            f"{outcome.rows:,}",
            f"{outcome.seconds:.1f}",
            rate,
            Text(outcome.error or outcome.left),
        )
    return table


def show_end(settings: Settings, bars: ShardBars, outcome: Outcome) -> None:
    """Shows the outcome of a shard at its bar."""
    bars.bar(settings.dataset.key_of(outcome.shard)).end(
        "failed" if outcome.error else "loaded", f"{outcome.rows:,} rows"
    )
