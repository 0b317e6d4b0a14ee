"""Measured program: our merge and our load with all checks, as the assets call them. It compares nothing."""

from __future__ import annotations

import argparse
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

from benchmarks.shards import SHARD
from benchmarks.stage import StageReport
from laion_assets.settings import load_settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.merged import read_merged
from laion_assets.shard.store import ShardStore
from laion_assets.table.connect import connect
from laion_assets.table.load import load_partition


class _NoPandas(MetaPathFinder):
    """Hides pandas from pyarrow. pandas is installed only for the page's way. Users of our code do not have it, but
    pyarrow imports it if it is installed."""

    def find_spec(self, fullname: str, *_: object) -> None:
        """Raises for pandas. For every other module, leaves the search to Python's other finders."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def main() -> None:
    """`python -m benchmarks.ours merge|load|both FOLDER`. FOLDER is the store, with the raw files in `raw/`.

    If FOLDER contains `dataset.toml`, that dataset is used instead of the sample's.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("merge", "load", "both"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    sys.meta_path.insert(0, _NoPandas())
    described = given.folder / "dataset.toml"
    name = str(described) if described.exists() else "sample"
    settings = load_settings(dataset_name=name, data_dir=given.folder)
    store = ShardStore(settings.data_dir, settings.dataset)
    report = StageReport()
    if given.step in ("merge", "both"):
        with report.phase("merge"):
            made = merge_shard(store, SHARD, max_bad_fraction=settings.max_bad_fraction)
        report.say(merged_bytes=made.file_bytes, quarantined=made.quarantined)
    if given.step in ("load", "both"):
        with report.phase("load"):
            merged = read_merged(store.merged_path(SHARD), dataset=store.dataset, shard=SHARD)
            with connect(settings) as db:
                loaded = load_partition(db, merged)
        report.say(part_bytes=loaded.bytes_on_disk, load_seconds=loaded.seconds)
    report.close()


if __name__ == "__main__":
    main()
