"""Progress of a load: bars on a terminal, otherwise lines. It shows what steps report and runs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from laion_assets.progress import LoggedProgress

LINE_SECONDS = 10.0
"""Without a terminal a stage reports its progress at this interval."""


class ShardBars:
    """Shows the progress of each shard and of all shards: bars on a terminal, otherwise lines with the time.

    A finished shard's bar is replaced by a line above, so that the running shards stay in view. Use this object as a
    context manager around the work; call `expect` if there is more than one shard.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.lines = not console.is_terminal
        self.progress = Progress(
            TextColumn("[bold]{task.fields[title]:>12}"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[amount]:>22}"),
            console=console,
            disable=self.lines,
        )
        self._bars: dict[str, ShardBar] = {}
        self._remaining: RemainingTime | None = None
        self._overall: TaskID | None = None

    def __enter__(self) -> ShardBars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def expect(self, shards: int) -> None:
        """Announces the number of shards: adds a bar for all of them, with the remaining time."""
        self._remaining = RemainingTime(shards)
        if shards > 1:
            self._overall = self.progress.add_task("", total=shards, title="all shards", amount=str(self._remaining))

    def bar(self, key: str) -> ShardBar:
        """The bar of the shard with this partition key."""
        if key not in self._bars:
            self._bars[key] = ShardBar(self, f"shard {key}" if key.isdecimal() else key)
        return self._bars[key]

    def for_step(self, context: dg.AssetExecutionContext) -> ShardBar:
        """The bar to which a step of the chain reports."""
        return self.bar(context.partition_key if context.has_partition_key else context.asset_key.to_user_string())

    def say(self, line: str) -> None:
        """Prints a line above the bars; if there are none, with the time before it."""
        clock = time.strftime("%H:%M:%S ") if self.lines else ""
        self._console.print(f"{clock}{line}", markup=False, highlight=False, soft_wrap=True)

    def done(self, title: str, word: str, amount: str) -> None:
        """A shard is finished: prints its line, and the time that the others will take."""
        self.say(f"{title} {word}: {amount}")
        if self._remaining is None:
            return
        self._remaining.step()
        if self._overall is not None:
            self.progress.update(self._overall, advance=1, amount=str(self._remaining))
            if self.lines:
                self.say(f"{self._remaining}")


class ShardBar:
    """One bar. It is the `Progress` of its shard's steps."""

    def __init__(self, bars: ShardBars, title: str) -> None:
        self._bars = bars
        self._title = title
        self._progress = bars.progress
        self._task: TaskID | None = None
        self._logged = LoggedProgress(lambda line: bars.say(f"{title}: {line}"), LINE_SECONDS) if bars.lines else None
        self._unit = ""

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins: the bar starts again, or pulses if its total is unknown."""
        self._unit = unit
        if self._logged is not None:
            self._logged.begin(stage, total, unit)
        elif self._task is None:
            self._task = self._progress.add_task(stage, total=total, title=self._title, amount="")
        else:
            self._progress.reset(self._task, total=total, description=stage)
            self._progress.update(self._task, amount="")

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` units of the stage are finished."""
        if self._logged is not None:
            self._logged.advance(done, total)
        elif self._task is not None:
            task = self._progress.tasks[self._progress.task_ids.index(self._task)]
            self._progress.update(self._task, advance=done, total=task.total if total is None else total)
            self._progress.update(self._task, amount=f"{_short(task.completed)} of {_short(task.total)} {self._unit}")

    def end(self, word: str, amount: str) -> None:
        """The shard is finished: "loaded" and its rows, or "failed"."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._bars.done(self._title, word, amount)


class RemainingTime:
    """Counts finished things of `total`, and estimates the time for the rest from the pace so far."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._started = clock()
        self._done = 0

    def step(self) -> None:
        """One more is finished."""
        self._done += 1

    @property
    def seconds_to_go(self) -> float | None:
        """The estimate; None before the first is finished."""
        if not self._done:
            return None
        return (self._clock() - self._started) / self._done * (self._total - self._done)

    def __str__(self) -> str:
        left = self.seconds_to_go
        told = f"{self._done} of {self._total} shards"
        return told if left is None or self._done >= self._total else f"{told}, about {_duration(left)} to go"


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _short(count: float | None) -> str:
    if count is None:
        return "?"
    for factor, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.1f}{sign}"
    return f"{count:.0f}"
