"""Measured program: our fetch of one shard's three files over HTTP. It compares nothing."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path

from benchmarks.process import anonymous_bytes
from benchmarks.stage import StageReport
from laion_assets.settings import load_settings
from laion_assets.source.client import SourceClient
from laion_assets.source.fetch import fetch_shard
from laion_assets.source.fetch_limits import FetchLimits


def main() -> None:
    """`python -m benchmarks.fetch_ours fetch DATASET URL FOLDER`, or `served URL`, which prints the server's byte
    count."""
    step, *given = sys.argv[1:]
    if step == "served":
        with urllib.request.urlopen(f"{given[0]}/bytes") as answer:  # noqa: S310 - our own server on loopback
            sys.stdout.write(json.dumps({"served": int(answer.read())}) + "\n")
        return
    dataset, url, folder = given
    settings = load_settings(dataset_name=dataset, source=(url,), data_dir=Path(folder))
    report = StageReport()
    # Memory that any program needs for imports and for a first connection does not count as memory of the fetch.
    with SourceClient(FetchLimits.of(settings), None):
        report.say(base_bytes=anonymous_bytes(os.getpid()))
    with report.phase("fetch"):
        fetched = fetch_shard(settings, 0, settings.data_dir / "raw")
    report.say(fetched_bytes=sum(file.bytes_fetched for file in fetched), tries=sum(file.tries for file in fetched))
    report.close()


if __name__ == "__main__":
    main()
