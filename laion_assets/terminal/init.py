"""`laion-assets init`: makes a working folder without the repository: a Dagster instance, a workspace, a `.env`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from laion_assets.dataset import preset_names, user_path
from laion_assets.errors import SettingsError
from laion_assets.shard.store_errors import store_errors
from laion_assets.terminal.instance import CONFIG_FILE
from laion_assets.terminal.settings import quoted

WORKSPACE = """\
load_from:
  - python_module:
      module_name: laion_assets.definitions
      location_name: laion_assets
"""

IGNORED = (
    "# What is not for git: secrets, files, Dagster's history.\n.env\ndata/\nhistory/\nlogs/\nschedules/\nstorage/\n"
)

VARIABLES = """\
# Settings of this folder. laion-assets and `dagster dev` read this file where they are started; a variable that is set
# already goes before it. `laion-assets settings` says what holds.
DAGSTER_HOME={folder}
LAION_DATASET={dataset}
{source}
# LAION_DATA_DIR=data
# LAION_CLICKHOUSE=https://user@clickhouse.example:8443/laion
# LAION_CLICKHOUSE_PASSWORD=
# LAION_INDEX_FIRST=10
"""


def init_folder(folder: Path, dataset: str, sources: Sequence[str]) -> list[Path]:
    """Writes the files of a new working folder; returns them. `dataset` is a preset or the path of a TOML file.

    Raises `SettingsError` if one of them exists, and `StoreError` if the folder cannot be written.
    """
    if dataset not in preset_names():
        # The settings are read in the new folder.
        dataset = str(user_path(dataset).absolute())
    places = ", ".join(f'"{place}"' if len(sources) > 1 else place for place in sources)
    named = f"LAION_SOURCE={quoted(places)}" if sources else "# LAION_SOURCE=https://mirror.example/laion400m"
    contents = {
        "dagster.yaml": CONFIG_FILE.read_text(encoding="utf-8"),
        "workspace.yaml": WORKSPACE,
        ".env": VARIABLES.format(folder=quoted(str(folder)), dataset=quoted(dataset), source=named),
        ".gitignore": IGNORED,
    }
    with store_errors(f"folder {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        found = [name for name in contents if (folder / name).exists()]
        if found:
            raise SettingsError(
                f"folder {folder}", found=", ".join(found), expected="none of them", advice="choose another folder"
            )
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in contents]
