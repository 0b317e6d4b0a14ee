"""Measured program: loads a merged file into a server, by pull or by push. It compares nothing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.shards import SHARD
from benchmarks.stage import StageReport
from laion_assets.settings import load_settings
from laion_assets.shard.merged import read_merged
from laion_assets.table.connect import connect
from laion_assets.table.load import load_partition


def main() -> None:
    """`python -m benchmarks.push_load pull|push URL PROCESS FILE`. PROCESS is the server's process id."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("pull", "push"))
    parser.add_argument("url")
    parser.add_argument("process", type=int)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    place = "merged" if given.way == "pull" else None
    settings = load_settings(dataset_name="sample", clickhouse=given.url, clickhouse_merged=place)
    report = StageReport()
    before = _cpu_seconds(given.process)
    with report.phase("load"):
        merged = read_merged(given.file, dataset=settings.dataset, shard=SHARD)
        with connect(settings) as db:
            loaded = load_partition(db, merged)
            if not loaded.transfer.startswith("push" if given.way == "push" else "user_files"):
                raise RuntimeError(f"expected a load by {given.way}, but the file was loaded by {loaded.transfer}")
    report.say(server_cpu=_cpu_seconds(given.process) - before, compression=settings.compression)
    report.say(load=loaded.total_seconds, **loaded.seconds)
    with connect(settings) as db:
        db.command(f"DROP TABLE {db.table} SYNC")
    report.close()


def _cpu_seconds(process: int) -> float:
    """CPU seconds of all threads of a process, in user space and in the kernel."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
