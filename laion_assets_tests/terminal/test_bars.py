"""Tests of progress on a terminal and in a log: lines with the time, bars of running shards, the remaining time."""

from __future__ import annotations

import io
import re

from rich.console import Console

from laion_assets.terminal.bars import RemainingTime, ShardBars


def load_three(console: Console) -> None:
    """Reports the progress of three shards, two of which are loaded at the end."""
    with ShardBars(console) as bars:
        bars.expect(3)
        for key in ("0", "1"):
            bar = bars.bar(key)
            bar.begin("fetch", 100, "bytes")
            bar.advance(50)
            bar.begin("merge")
            bar.end("loaded", "1,000 rows")
        bars.bar("2").begin("fetch", unit="bytes")
        bars.bar("2").advance(7)


def test_without_a_terminal_progress_is_lines_with_the_time() -> None:
    written = io.StringIO()
    load_three(Console(file=written, width=200))
    lines = written.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    said = [line[9:] for line in lines]
    assert said[:3] == ["shard 0: fetch: 100 bytes", "shard 0: merge", "shard 0 loaded: 1,000 rows"]
    assert said[3].startswith("1 of 3 shards, about ") and said[3].endswith(" to go")
    assert "\x1b" not in written.getvalue()


def test_on_a_terminal_a_shard_that_is_done_leaves_its_bar_and_all_have_one() -> None:
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=True, height=8)
    load_three(console)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue().rpartition("shard 1 loaded")[2])
    assert "2 of 3 shards, about" in last
    assert "shard 2" in last
    assert "shard 0" not in last


def test_the_time_to_go_is_by_the_pace_until_now() -> None:
    now = 100.0
    pace = RemainingTime(10, clock=lambda: now)
    assert pace.seconds_to_go is None
    now += 60
    pace.step()
    pace.step()
    assert pace.seconds_to_go == 240
    assert str(pace) == "2 of 10 shards, about 4 min to go"
