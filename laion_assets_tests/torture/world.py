"""Makes a small dataset in two versions, and a store with a Dagster instance. Other modules load the dataset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.terminal.instance import CONFIG_FILE
from laion_assets_tests.torture.truth import RawFiles, Truth, true_rows

ROWS = (130, 70)
"""Rows of the shards: several blocks of 50 rows and statements of 100 rows, as the killed processes write them."""

VERSIONS = (0, 1)
REFUSED = {(0, 1): (3, 57)}
"""Rows with invalid vectors, by version and shard. Loading the other version must remove their quarantine file."""

DATASET = 'name = "torture"\nshards = 2\ndimension = 512\nclip_model = "sample"\n'

NO_STEP_OUTPUT = """\
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
"""Steps need no log of their output, for which Dagster would start two processes each."""

FAST: Mapping[str, object] = {
    "hnsw_m": 8,
    "hnsw_ef_construction": 32,
    "recall_queries": 2,
    "max_bad_fraction": 0.1,
    "clickhouse_wait_seconds": 5.0,
    "http_tries": 5,
}


@dataclass
class World:
    """The sources, which are kept, and a store and a Dagster instance, which `renew` replaces by empty ones.

    `urls` are the HTTP servers of the same files, by version.
    """

    folder: Path
    urls: dict[int, str] = field(default_factory=dict)
    truths: dict[tuple[int, int], Truth] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The folder of the store and the Dagster instance."""
        return self.folder / "home"

    @property
    def data(self) -> Path:
        """The folder of the store."""
        return self.home / "data"

    @property
    def shards(self) -> list[int]:
        """The numbers of the shards."""
        return list(range(len(ROWS)))

    def source(self, version: int) -> Path:
        """The folder with one version of all files."""
        return self.folder / f"version_{version}"

    def prepare(self) -> None:
        """Writes the sources, and computes from them the rows that the table must hold."""
        (self.folder / "torture.toml").write_text(DATASET, encoding="utf-8")
        for version in VERSIONS:
            for shard, rows in enumerate(ROWS):
                write_sample_shard(self.source(version), shard, rows, seed=20 + version)
                files = RawFiles.of(self.source(version), shard)
                _spoil(files.image, REFUSED.get((version, shard), ()))
                self.truths[version, shard] = true_rows(files, shard)
        assert {key: tuple(truth.refused) for key, truth in self.truths.items() if truth.refused} == REFUSED

    def renew(self) -> None:
        """Makes an empty store and a Dagster instance without history."""
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "dagster").mkdir(parents=True)
        (self.home / "dagster" / "dagster.yaml").write_text(CONFIG_FILE.read_text() + NO_STEP_OUTPUT, encoding="utf-8")

    def settings(self, version: int, *, over_http: bool, **fields: object) -> Settings:
        """Settings to load one version, from its folder or its HTTP server."""
        os.environ["DAGSTER_HOME"] = str(self.home / "dagster")
        source = self.urls[version] if over_http else str(self.source(version))
        named: dict[str, object] = {
            "dataset_name": str(self.folder / "torture.toml"),
            "data_dir": self.data,
            "source": (source,),
        }
        return load_settings(**{**FAST, **named, **fields})


def _spoil(path: Path, rows: tuple[int, ...]) -> None:
    if rows:
        vectors = np.load(path)
        vectors[list(rows)] = np.nan
        np.save(path, vectors)
