"""Progress bars: one line a shard, its stage and how far it is. It takes what steps report and runs nothing."""

from __future__ import annotations

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn


class ShardBars:
    """A bar for each shard that is being loaded. Use as a context manager around the work."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.fields[title]:>12}"),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[amount]:>22}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ShardBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def bar(self, key: str) -> ShardBar:
        """The bar of the shard with this partition key."""
        if key not in self._tasks:
            title = f"shard {key}" if key.isdecimal() else key
            self._tasks[key] = self._progress.add_task("waits", total=None, title=title, amount="")
        return ShardBar(self._progress, self._tasks[key])

    def for_step(self, context: dg.AssetExecutionContext) -> ShardBar:
        """The bar that a step of the chain reports to."""
        return self.bar(context.partition_key if context.has_partition_key else context.asset_key.to_user_string())


class ShardBar:
    """One bar; it is the `Progress` of that shard's steps."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._unit = ""

    def begin(self, stage: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins: the bar starts again, or pulses where its total is unknown."""
        self._unit = unit
        self._progress.reset(self._task, total=total, description=stage)
        self._progress.update(self._task, amount="")

    def advance(self, done: int, total: int | None = None) -> None:
        """`done` more of the stage's units."""
        task = self._progress.tasks[self._task]
        self._progress.update(self._task, advance=done, total=task.total if total is None else total)
        self._progress.update(self._task, amount=f"{_short(task.completed)} of {_short(task.total)} {self._unit}")

    def end(self, word: str, amount: str) -> None:
        """The shard is done with: "loaded" and its rows, or "failed"."""
        self._progress.update(self._task, total=1, completed=1, description=word, amount=amount)
        self._progress.stop_task(self._task)


def _short(count: float | None) -> str:
    if count is None:
        return "?"
    for factor, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.1f}{sign}"
    return f"{count:.0f}"
