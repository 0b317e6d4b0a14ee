"""The load report's page in Markdown: findings, totals, a picture of all shards, the plan, and a row for each shard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from laion_assets.health.finding import Finding
from laion_assets.health.history import ShardHistory
from laion_assets.health.keys import CHAIN
from laion_assets.health.picture import shards_picture, states_in_words
from laion_assets.plan.kept_plan import Compared
from laion_assets.recall.plot import inline_image
from laion_assets.words import counted, lasting

VERDICTS = {True: "passed", False: "**failed**", None: "*not told*"}


@dataclass(frozen=True)
class Totals:
    """Sums over the loaded shards, whatever the state of their last run. The page and the metadata both show them."""

    loaded: int
    rows: int
    seconds: float

    @classmethod
    def of(cls, histories: list[ShardHistory]) -> Totals:
        """The sums over these shards."""
        loaded = [history for history in histories if history.progress == "loaded"]
        seconds = sum(sum(history.seconds.values()) for history in loaded)
        return cls(len(loaded), sum(history.rows for history in loaded), seconds)


def report_markdown(
    histories: list[ShardHistory], findings: Sequence[Finding], compared: Sequence[Compared] = ()
) -> str:
    """The page: findings, totals, a picture of all shards, the plan compared with what happened, and a row for each
    shard that was ever begun."""
    lines = [f"- {VERDICTS[found.passed]} `{found.check}`: {_cell(found.seen)}" for found in findings]
    lines += ["", _totals(histories), ""]
    picture = shards_picture(histories)
    if picture is not None:
        lines += [inline_image(picture, states_in_words(histories)), ""]
    lines += _plan_lines(compared)
    stages = " | ".join(f"{asset} s" for asset in CHAIN)
    lines += [
        f"| shard | state | last run | rows | quarantined | {stages} | rows/s | run | last error |",
        "|---:|---|---|---:|---:|" + "---:|" * len(CHAIN) + "---:|---|---|",
    ]
    lines += [_row(history) for history in histories if history.progress != "missing" or history.last_run]
    return "\n".join(lines)


def _row(history: ShardHistory) -> str:
    seconds = " | ".join(f"{history.seconds[asset]:.1f}" if asset in history.seconds else "" for asset in CHAIN)
    run = f"[{history.run_id[:8]}](/runs/{history.run_id})" if history.run_id else ""
    state = f"{history.progress}, stale" if history.stale else history.progress
    why = history.error or next(iter(history.stale.values()), "")
    return (
        f"| {history.key} | {state} | {history.last_run} | {history.rows:,} | {history.quarantined:,} | {seconds} "
        f"| {history.rows_per_second:,.0f} | {run} | {_cell(why)} |"
    )


def _totals(histories: list[ShardHistory]) -> str:
    totals = Totals.of(histories)
    waiting = len(histories) - totals.loaded
    line = f"**{totals.loaded:,} of {counted(len(histories), 'shard')} loaded, {counted(totals.rows, 'row')}.**"
    if totals.loaded and waiting:
        left = lasting(waiting * totals.seconds / totals.loaded)
        line += f" {counted(waiting, 'shard')} to go: {left} of work, one after the other."
    return line


def _plan_lines(compared: Sequence[Compared]) -> list[str]:
    if not compared:
        return []
    lines = ["Plan of the last load against what happened since:", "", "| | planned | actual | plan's error |"]
    lines += ["|---|---:|---:|---:|"]
    for one in compared:
        planned, actual = (f"{value:,.0f} {one.unit}" for value in (one.planned, one.actual))
        lines.append(f"| {one.name} | {planned} | {actual} | {one.error:+.0%} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    """Text for one table cell: no line breaks, no characters that Markdown interprets, at most 300 characters."""
    return re.sub(r"([\\|<>`*\[\]])", r"\\\1", " ".join(text.split())[:300])
