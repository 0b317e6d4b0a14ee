"""Benchmark: rows per granule and bytes per text block, by the cost of a search, a scan, a load and a merge."""

from __future__ import annotations

from benchmarks import alone
from benchmarks.process import Measured, measure, python
from benchmarks.report import Section

ABOUT = """\
One part of {rows:,} sample rows with both vector columns, bf16, M 16, ef_construction 64, embedded engine. The trials
vary the rows per granule and the size of a compressed block of a text column (ClickHouse's default is 64 KiB to 1 MiB).
Each line is a separate process. Searches are CPU milliseconds of the process, the best of 3 rounds of 100 text queries,
k = 10. *× 5* rescores 50 candidates and *× 20* rescores 200. Load is the CPU seconds of insert, merge, check and swap,
and the peak of the process's anonymous memory during the load."""

TRIALS = ((512, 0), (512, 4096), (256, 4096), (128, 4096), (64, 4096), (64, 0))
"""Rows per granule, bytes per block. 0 means ClickHouse's default."""

HEAD = [
    "rows per granule", "block of text", "search", "100 nearest", "× 5", "× 20", "half meet a condition", "exact",
    "load, CPU s", "load, MB", "disk, MB", "text, MB", "marks, MB",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks granules`."""
    options = alone.parser(__doc__, "granules")
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--trials", type=int, default=len(TRIALS), help="how many of the trials run")
    given = options.parse_args(arguments)
    with alone.reported("granules", ABOUT.format(rows=given.rows), given) as report:
        rows = [HEAD]
        for granule, block in TRIALS[: given.trials]:
            folder = report.scratch / f"{granule}_{block}"
            found = measure(python("benchmarks.granule_trial", folder, given.rows, granule, block))
            report.raw(f"{granule} rows, {block} bytes", found.result)
            rows.append(_cells(granule, block, found))
            report.say(", ".join(rows[-1]))
            report.table("By granule and block", rows)
    return report.section


def _cells(granule: int, block: int, found: Measured) -> list[str]:
    figures = found.result
    searches = [f"{figures[name]:.2f}" for name in ("search", "nearest_100", "times_5", "times_20", "half", "exact")]
    load = [f"{found.phase_cpu['load']:.2f}", f"{found.phase_peaks['load'] / 1e6:.0f}"]
    sizes = [f"{figures[name]:.2f}" for name in ("disk_mb", "text_mb", "marks_mb")]
    return [str(granule), f"{block:,}" if block else "ClickHouse's default", *searches, *load, *sizes]


if __name__ == "__main__":
    main()
