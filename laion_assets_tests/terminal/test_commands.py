"""Tests of the commands, in a folder that `init` made outside the repository: load all, index, recall, and JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from laion_assets.plan.kept_plan import plan_path, read_plan
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import load_settings
from laion_assets.terminal.settings import quoted, shown_settings
from laion_assets_tests.endpoint.process import ServerProcess
from laion_assets_tests.forked.process import run_forked

ROWS = (120, 60, 40, 80)
"""Few rows, since more search settings are measured when a part has more rows."""

QUICK = {"LAION_HNSW_M": "16", "LAION_HNSW_EF_CONSTRUCTION": "64", "LAION_RECALL_QUERIES": "2"}


@dataclass(frozen=True)
class Folder:
    """A user's folder, with no settings in the environment."""

    path: Path

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs the command in the folder."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAION_", "DAGSTER_"))}
        given = kept | {"COLUMNS": "200"} | environment
        return run_forked("-m", "laion_assets.cli", *arguments, cwd=self.path, env=given, timeout=400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder that `init` made, with loaded shards. Its name and the source's name contain a space."""
    above = tmp_path_factory.mktemp("walk")
    for shard, rows in enumerate(ROWS):
        write_sample_shard(above / "my shards", shard, rows, seed=11)
    made = Folder(above).run("init", "my load", "--dataset", "sample", "--source", str(above / "my shards"))
    assert made.returncode == 0, made.stderr
    return Folder(above / "my load")


def test_the_folder_has_an_instance_and_settings_that_are_read_there(folder: Folder) -> None:
    found = {each["variable"]: each for each in json.loads(folder.run("settings", "--json").stdout)}
    assert (found["LAION_DATASET"]["value"], found["LAION_DATASET"]["origin"]) == ("sample", ".env")
    assert found["LAION_SOURCE"]["value"].endswith("/my shards")
    before = json.loads(folder.run("settings", "--json", LAION_DATASET="laion400m").stdout)[0]
    assert (before["value"], before["origin"]) == ("laion400m", "environment")
    again = folder.run("init", ".")
    assert again.returncode == 2
    assert "dagster.yaml, workspace.yaml, .env, .gitignore" in again.stderr
    assert ".env" in (folder.path / ".gitignore").read_text().splitlines()


def test_a_new_folder_finds_a_description_and_shards_that_were_named_relative_to_another(tmp_path: Path) -> None:
    """The commands are those that the command line and the README print for one's own files."""
    above = Folder(tmp_path)
    write_sample_shard(tmp_path / "pictures", 0, 30)
    described = above.run("describe", "pictures", "--output", "mine.toml", "--name", "mine")
    assert described.returncode == 0, described.stderr
    assert "laion-assets init FOLDER --dataset mine.toml; cd FOLDER; laion-assets load all" in described.stderr
    made = above.run("init", "mine", "--dataset", "mine.toml", "--source", "pictures")
    assert made.returncode == 0, made.stderr
    folder = Folder(tmp_path / "mine")
    found = {each["variable"]: each["value"] for each in json.loads(folder.run("settings", "--json").stdout)}
    assert found["LAION_DATASET"] == str(tmp_path / "mine.toml")
    assert found["LAION_SOURCE"] == str(tmp_path / "pictures")
    loaded = folder.run("load", "all", "--json")
    assert json.loads(loaded.stdout)["loaded"] is True, loaded.stderr
    nowhere = above.run("load", "all", LAION_DATASET="mine.toml")
    assert nowhere.returncode == 2
    assert "`laion-assets init FOLDER` makes one" in nowhere.stderr


def test_settings_that_are_not_set_show_what_is_used() -> None:
    shown = {each.variable: each for each in shown_settings(load_settings(dataset_name="vdbbench-laion-100m"))}
    columns = shown["LAION_EXTRA_COLUMNS"]
    assert (columns.value, columns.origin) == ("source_id", "dataset")
    assert shown["LAION_HTTP_NETRC"].value == "~/.netrc"
    assert shown["LAION_CLIP_DIR"].value.endswith("/data/clip")


def test_a_value_of_the_settings_file_comes_back_as_it_was() -> None:
    for value in ("/a b", "it's", "a\\b", "https://me:p%40@h/x?y=1#z", 'say "x"', "plain"):
        assert dotenv_values(stream=io.StringIO(f"A={quoted(value)}\n")) == {"A": value}


def test_all_shards_are_loaded_and_told_as_json(folder: Folder) -> None:
    ended = folder.run("load", "all", "--json")
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["loaded"] is True
    assert [(each["shard"], each["rows"], each["error"]) for each in found["shards"]] == [
        (shard, rows, "") for shard, rows in enumerate(ROWS)
    ]
    assert f"shard 0 loaded: {ROWS[0]} rows" in ended.stderr and "4 of 4 shards" in ended.stderr
    refused = folder.run("load", "all", "--again", "--parallel", "2")
    assert refused.returncode == 2
    assert "--parallel: found the embedded engine" in refused.stderr


def test_the_index_is_built_and_its_recall_shown(folder: Folder) -> None:
    nothing = folder.run("recall")
    assert nothing.returncode == 2
    assert "`laion-assets index`" in nothing.stderr
    built = folder.run("index", "--json", **QUICK)
    assert built.returncode in (0, 1), built.stderr
    kinds = {kind["kind"] for kind in json.loads(built.stdout)["kinds"]}
    shown = folder.run("recall", **QUICK)
    assert shown.returncode in (0, 1), shown.stderr
    assert "text to image" in shown.stdout and "text_to_image" in kinds
    measured = folder.run("recall", "--measure", "--json", **QUICK)
    assert {kind["kind"] for kind in json.loads(measured.stdout)["kinds"]} == kinds


def test_index_exits_with_1_while_a_target_is_not_met(folder: Folder) -> None:
    """Graphs of so few links lose neighbours. The second call finds that nothing has changed, and builds nothing."""
    bad = {"LAION_HNSW_M": "2", "LAION_HNSW_EF_CONSTRUCTION": "4", "LAION_RECALL_QUERIES": "8"}
    for said in ("", "nothing has changed since"):
        below = folder.run("index", "--json", **bad, LAION_RECALL_TARGET="1")
        assert below.returncode == 1, below.stderr
        assert said in " ".join(below.stderr.split())
        found = json.loads(below.stdout)
        assert min(kind["chosen"]["at_10"]["low"] for kind in found["kinds"]) < found["target"] == 1
    assert folder.run("index", **bad, LAION_RECALL_TARGET="0.01").returncode == 0


def test_the_version_is_told(folder: Folder) -> None:
    ended = folder.run("--version")
    assert (ended.returncode, ended.stdout.split()[0]) == (0, "laion-assets")
    assert "--install-completion" in folder.run("--help").stdout


def test_options_stand_before_and_behind_a_command(folder: Folder) -> None:
    for arguments in (
        ("--dataset", "laion400m", "settings", "--json"),
        ("settings", "--dataset", "laion400m", "--json"),
    ):
        found = json.loads(folder.run(*arguments).stdout)[0]
        assert (found["value"], found["origin"]) == ("laion400m", "option")


def test_shards_are_loaded_side_by_side_on_a_server(folder: Folder, clickhouse_server: ServerProcess) -> None:
    here = {"LAION_CLICKHOUSE": clickhouse_server.url(), "LAION_DATA_DIR": "elsewhere"}
    ended = folder.run("load", "all", "--parallel", "2", "--json", **here)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["shards"]
    assert [(each["shard"], each["rows"]) for each in found] == list(enumerate(ROWS))
    assert json.loads(folder.run("status", "--json", **here).stdout)["rows"] == sum(ROWS)
    kept = read_plan(plan_path(load_settings(dataset_name="sample", data_dir=folder.path / "elsewhere")))
    assert kept is not None
    assert [planned.shard for planned in kept.shards] == list(range(len(ROWS))), "the plan is that of the whole load"
