"""What a shard of a backfill takes with PostgreSQL and four runs at a time, over SQLite and two, in one run of both.

`python -m benchmarks.orchestration_postgres [--quick]` prints a Markdown table and, after it, the same as JSON.
It needs PostgreSQL's programs on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.orchestration import ROWS, backfill_seconds, tiny_shards
from laion_assets_tests.automation.services import Services
from laion_assets_tests.postgres import private_cluster, program

LIMIT = 0.6
"""Of SQLite's time with two runs, at most."""


def main() -> None:
    """Measures both; `--quick` with few shards, to see that it works."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shards")
    shards = 4 if parser.parse_args().quick else 50
    if program("initdb") is None:
        parser.error("PostgreSQL is not installed (apt: postgresql)")
    with tempfile.TemporaryDirectory(prefix="laion-orchestration-") as name:
        folder = Path(name)
        sqlite = _seconds_a_shard(folder / "sqlite", shards, "dagster.yaml", {})
        with private_cluster() as address:
            address["DAGSTER_LOCAL_DIR"] = str(folder / "postgres" / "local")
            postgres = _seconds_a_shard(folder / "postgres", shards, "deploy/dagster.yaml", address)
    how = f"backfill of {shards} shards of {ROWS} rows, wall time / shards; {os.cpu_count()} cores"
    sys.stdout.write(
        "| storage | runs at a time | seconds a shard | how |\n|---|---:|---:|---|\n"
        f"| SQLite | 2 | {sqlite:.2f} | {how} |\n| PostgreSQL | 4 | {postgres:.2f} | {how} |\n\n"
        f"PostgreSQL over SQLite: {postgres / sqlite:.2f}, at most {LIMIT:g}\n"
    )
    figures = {"shards": shards, "sqlite_seconds": sqlite, "postgres_seconds": postgres, "limit": LIMIT}
    sys.stdout.write(json.dumps({**figures, "ratio": postgres / sqlite}, indent=2) + "\n")


def _seconds_a_shard(folder: Path, shards: int, config: str, address: dict[str, str]) -> float:
    services = Services(folder / "home", {**tiny_shards(folder, shards), **address}, config)
    try:
        services.start_webserver()
        services.start_daemon()
        return backfill_seconds(services, shards) / shards
    finally:
        services.stop()


if __name__ == "__main__":
    main()
