"""Benchmark: time per shard of a backfill with PostgreSQL and four runs at a time, compared with SQLite and two."""

from __future__ import annotations

from pathlib import Path

from benchmarks.alone import parser, reported
from benchmarks.orchestration import ROWS, backfill_seconds, tiny_shards
from benchmarks.report import Section
from laion_assets_tests.automation.services import Services
from laion_assets_tests.postgres import private_cluster, program

ABOUT = """\
One backfill of {shards} shards of {rows} rows each in real Dagster (webserver, daemon, each run in its own process).
Figures are seconds of wall time from the launch of the backfill to the end of its last run, divided by the number of
shards. The first backfill uses `dagster.yaml` (SQLite, two runs at a time). The second uses `deploy/dagster.yaml`
(PostgreSQL, started on this machine for the benchmark, four runs at a time)."""

LIMIT = 0.6
"""The goal: the time with PostgreSQL is at most this multiple of the time with SQLite and two runs."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks orchestration_postgres`. `--quick` uses few shards, to check that all works."""
    options = parser(__doc__, "orchestration_postgres")
    options.add_argument("--quick", action="store_true", help="few shards")
    given = options.parse_args(arguments)
    shards = 4 if given.quick else 50
    if program("initdb") is None:
        options.error("PostgreSQL is not installed: apt-get install postgresql")
    with reported("orchestration_postgres", ABOUT.format(shards=shards, rows=ROWS), given) as report:
        sqlite = _seconds_a_shard(report.scratch / "sqlite", shards, "dagster.yaml", {})
        report.figure("time per shard with SQLite, two runs at a time", sqlite, "s")
        with private_cluster() as address:
            address["DAGSTER_LOCAL_DIR"] = str(report.scratch / "postgres" / "local")
            postgres = _seconds_a_shard(report.scratch / "postgres", shards, "deploy/dagster.yaml", address)
        report.figure("time per shard with PostgreSQL, four runs at a time", postgres, "s")
        report.figure(
            "time with PostgreSQL and four runs / with SQLite and two", postgres / sqlite, sign="≤", goal=LIMIT
        )
    return report.section


def _seconds_a_shard(folder: Path, shards: int, config: str, address: dict[str, str]) -> float:
    services = Services(folder / "home", {**tiny_shards(folder, shards), **address}, config, quick=False)
    try:
        services.start_webserver()
        services.start_daemon()
        return backfill_seconds(services, shards) / shards
    finally:
        services.stop()


if __name__ == "__main__":
    main()
