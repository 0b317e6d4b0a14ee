"""The definitions that Dagster loads: everything in defs/."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """The project's definitions."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
