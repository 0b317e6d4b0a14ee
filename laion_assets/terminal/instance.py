"""Finds the Dagster instance that the UI shows, for commands that run or read it. It runs nothing."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from laion_assets.errors import SettingsError

MINIMAL_CONFIG = """\
# Written by laion-assets for a Dagster instance of its own; storage lies beside this file.
telemetry:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 2
  pools:
    default_limit: 1
    granularity: op
"""


def dagster_instance() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, else that of this folder when it holds dagster.yaml. Raises `SettingsError`."""
    home = os.environ.get("DAGSTER_HOME")
    if home is None and Path("dagster.yaml").is_file():
        home = str(Path.cwd())
    if home is None or not (Path(home) / "dagster.yaml").is_file():
        raise SettingsError(
            "Dagster instance",
            found=f"no dagster.yaml in {home or 'this folder'}",
            expected="the folder that holds it",
            advice="run this in the project's folder, or set DAGSTER_HOME to it",
        )
    os.environ["DAGSTER_HOME"] = home
    # Its storage paths may be relative, as ours are, and mean this folder.
    os.chdir(home)
    return dg.DagsterInstance.get()


def make_instance(home: Path) -> None:
    """Makes `home` a Dagster instance of its own and has this process use it."""
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(MINIMAL_CONFIG, encoding="utf-8")
    os.environ["DAGSTER_HOME"] = str(home)
