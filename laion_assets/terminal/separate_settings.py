"""The settings of a separate table and store, for the demo and the calibration. It measures nothing."""

from __future__ import annotations

from pathlib import Path

from laion_assets.settings import Settings, load_settings

APART: dict[str, object] = {
    "source": (),
    "store": None,
    "store_collection": None,
    "clickhouse": None,
    "clickhouse_merged": None,
    "cluster": None,
    "table": "laion",
    "manifest": None,
    "extra_columns": (),
    "keep_raw": False,
    "keep_merged": True,
    "clip_dir": None,
}
"""LAION_* variables about the user's own table, store and source, which sample rows must not reach."""


def separate_settings(dataset: str, folder: Path, **overrides: object) -> Settings:
    """Settings for this dataset in the embedded engine and the files of `folder`, independent of the user's own.

    Raises the errors of `load_settings`.
    """
    return load_settings(dataset_name=dataset, data_dir=folder, **APART, **overrides)


QUICK = {"hnsw_m": 16, "hnsw_ef_construction": 64, "recall_queries": 10}
"""A graph that is built in a fifth of the time of the defaults (M 64, ef_construction 256)."""


def demo_settings(folder: Path) -> Settings:
    """The settings of the demo's table in `folder`."""
    return separate_settings("sample", folder, **QUICK)
