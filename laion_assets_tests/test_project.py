"""Tests that each of Dagster's commands finds the same code location in the repository."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from laion_assets.settings import Settings, variable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def test_every_command_of_dagster_finds_the_same_code_location() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    (workspace,) = yaml.safe_load((ROOT / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    expected = (workspace["python_module"]["module_name"], workspace["python_module"]["location_name"])
    project = tools["dg"]["project"]
    assert (project["code_location_target_module"], project["code_location_name"]) == expected
    assert (tools["dagster"]["module_name"], tools["dagster"]["code_location_name"]) == expected


def test_the_example_of_a_dot_env_names_variables_that_there_are() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"^# ([A-Z_]+)=", text, re.MULTILINE))
    assert len(named) > 5
    assert named - {"DAGSTER_HOME"} <= {variable(field) for field in Settings.model_fields}
    assert not re.search(r"^[A-Z]", text, re.MULTILINE), "a copy changes nothing until a line is uncommented"
    assert "/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_the_range_of_dagsters_versions_is_the_one_that_was_tried() -> None:
    table = (ROOT / "docs" / "dagster_versions.md").read_text(encoding="utf-8")
    tried = re.findall(r"^\| (\d+)\.(\d+)\.(\d+) \|.* (\d+) passed, \d+ skipped \|", table, re.MULTILINE)
    lowest, highest = [[int(part) for part in tried[place]] for place in (0, -1)]
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (dagster,) = (one for one in wanted if one.startswith("dagster>"))
    assert dagster == f"dagster>={'.'.join(map(str, lowest[:3]))},<{highest[0]}.{highest[1] + 1}"
    assert not re.search(r"^\|.*(failed|error)", table, re.MULTILINE)
