"""The settings of a table and a store of their own, for the demo and the calibration. It measures nothing."""

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
"""What LAION_* variables say of the user's own table, store and source: sample rows must not get there."""


def separate_settings(dataset: str, folder: Path, **overrides: object) -> Settings:
    """Settings for this dataset in the embedded engine and the files of `folder`, wherever the user's are.

    Raises what `load_settings` raises.
    """
    return load_settings(dataset_name=dataset, data_dir=folder, **APART, **overrides)


QUICK = {"hnsw_m": 16, "hnsw_ef_construction": 64, "recall_queries": 10}
"""A graph that is built in a fifth of the time that the defaults (M 64, ef_construction 256) take."""


def demo_settings(folder: Path) -> Settings:
    """Those of the demo's table in `folder`."""
    return separate_settings("sample", folder, **QUICK)
