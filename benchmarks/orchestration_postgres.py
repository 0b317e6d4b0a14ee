"""Benchmark: a shard of a backfill with PostgreSQL and four runs at a time, compared with SQLite and two."""

from __future__ import annotations

from pathlib import Path

from benchmarks.alone import parser, reported
from benchmarks.orchestration import ROWS, backfill_seconds, tiny_shards
from benchmarks.report import Section
from laion_assets_tests.automation.services import Services
from laion_assets_tests.postgres import private_cluster, program

ABOUT = """\
One backfill of {shards} shards of {rows} rows each in real Dagster (webserver, daemon, runs in processes of their own):
seconds of wall time from its launch to the end of its last run, by the number of shards. First with `dagster.yaml`
(SQLite, two runs at a time), then with `deploy/dagster.yaml` (a PostgreSQL of its own on this machine, four)."""

LIMIT = 0.6
"""The goal: at most this multiple of SQLite's time with two runs."""


def main(arguments: list[str] | None = None) -> Section:
    """`python -m benchmarks orchestration_postgres`: `--quick` with few shards, to see that it works."""
    options = parser(__doc__, "orchestration_postgres")
    options.add_argument("--quick", action="store_true", help="few shards")
    given = options.parse_args(arguments)
    shards = 4 if given.quick else 50
    if program("initdb") is None:
        options.error("PostgreSQL is not installed (apt: postgresql)")
    with reported("orchestration_postgres", ABOUT.format(shards=shards, rows=ROWS), given) as report:
        sqlite = _seconds_a_shard(report.scratch / "sqlite", shards, "dagster.yaml", {})
        report.figure("a shard with SQLite, two runs at a time", sqlite, "s")
        with private_cluster() as address:
            address["DAGSTER_LOCAL_DIR"] = str(report.scratch / "postgres" / "local")
            postgres = _seconds_a_shard(report.scratch / "postgres", shards, "deploy/dagster.yaml", address)
        report.figure("a shard with PostgreSQL, four runs at a time", postgres, "s")
        report.figure("PostgreSQL with four over SQLite with two", postgres / sqlite, sign="≤", goal=LIMIT)
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
