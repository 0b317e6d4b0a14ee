"""Benchmark: the error of `laion-assets plan` for a load of shards that were not used to calibrate the plan.

`python -m benchmarks plan [--quick]`. It makes a plan with its calibration first. Then it makes the load, the index and
the recall report that were planned. Each is a separate process.
"""

from __future__ import annotations

from benchmarks import alone
from benchmarks.process import Measured, measure, python
from benchmarks.report import Section
from laion_assets.sample.shards import write_sample_shard

ROWS = (20_000, 50_000, 35_000, 28_000, 44_000, 31_000, 23_000, 47_000, 39_000, 26_000)
QUICK_ROWS = (6_000, 15_000, 9_000)
SEED = 77
"""A seed that differs from the calibration's, so that the shards differ too."""

GOAL = 0.20

ABOUT = """\
A plan is made for shards of {least:,} to {most:,} rows ({count} shards, {rows:,} rows), after a calibration on this
machine that did not use these shards. Then the shards are loaded by `laion-assets load` and indexed, and their recall
is measured. An error is planned / actual − 1. The goal is an error of at most {goal:.0%} in either direction. Peak disk
is measured every 0.2 s. Memory is the peak of resident memory (VmHWM) of each step's process."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks plan`."""
    parser = alone.parser(__doc__, "plan")
    parser.add_argument("--quick", action="store_true", help="few shards and a fast index, to check that all works")
    given = parser.parse_args(arguments)
    counts = QUICK_ROWS if given.quick else ROWS
    about = ABOUT.format(least=min(counts), most=max(counts), count=len(counts), rows=sum(counts), goal=GOAL)
    with alone.reported("plan", about, given) as report:
        folder = report.scratch
        (folder / "sample.toml").write_text(
            f'name = "planned"\nshards = {len(counts)}\ndimension = 512\n[[sources]]\nurl = "{folder / "sample"}"\n'
        )
        for shard, rows in enumerate(counts):
            write_sample_shard(folder / "sample", shard, rows, seed=SEED)
        extra = ["--quick"] if given.quick else []
        report.say("the shards are written")
        planned = measure(python("benchmarks.planned", "plan", folder, *extra))
        report.say(f"planned in {planned.wall:.0f} s")
        report.raw("plan", planned.result)
        loaded = measure(python("benchmarks.planned", "load", folder, *extra))
        report.raw("load", loaded.result)
        report.say(f"loaded in {loaded.wall:.0f} s")
        indexed = measure(python("benchmarks.planned", "index", folder, *extra))
        report.raw("index", indexed.result)
        _show(report, planned, loaded, indexed)
    return report.section


def _show(report: alone.GrowingReport, planned: Measured, loaded: Measured, indexed: Measured) -> None:
    load, index = loaded.result, indexed.result
    errors = {one["name"]: abs(one["error"]) for one in index["compared"]}
    peak = max(load["disk_peak"], load["disk_left"] + index["disk_peak"])
    errors["peak of disk"] = abs(load["disk_peak_planned"] / peak - 1)
    errors["time of the load by its caller's clock"] = abs(load["loading_planned"] / load["seconds"] - 1)
    wanted = (
        "time",
        "time of the load by its caller's clock",
        "disk",
        "peak of disk",
        "memory to load",
        "memory to index",
    )
    for name in wanted:
        report.figure(f"error of the plan: {name}", errors[name], sign="≤", goal=GOAL, form=".2f")
    calibrated = planned.result["calibration"]["seconds"]
    report.figure("calibration", calibrated, "s", sign="≤", goal=60, form=".0f")
    report.note(
        f"Cores that other processes used: {planned.others:.2f} during the plan, {loaded.others:.2f} during the load, "
        f"{indexed.others:.2f} during index and recall. The plan took {planned.wall:.0f} s in total."
    )
    head = ["", "planned", "actual", "error"]
    rows = [
        [one["name"], *(f"{one[key] / (1e6 if one['unit'] == 'bytes' else 1):,.1f}" for key in ("planned", "actual")),
         f"{one['error']:+.0%}"]
        for one in index["compared"]
    ]  # fmt: skip
    report.table("Plan against actual (s, MB)", [head, *rows])
