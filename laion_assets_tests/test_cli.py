"""Tests the command: a load with a corrupt shard, an interrupted load and its continuation, searches, short errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from laion_assets.cli import app
from laion_assets.plan.calibration import calibration_path, keep_calibration
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets.terminal.index import current_report
from laion_assets.terminal.instance import make_instance
from laion_assets_tests.conftest import SAMPLE_ROWS, Shard, copy_sample
from laion_assets_tests.forked.process import ForkedProcess, run_forked
from laion_assets_tests.plan.made_up import calibration
from laion_assets_tests.table.loaded import holder

SECRET = "hunter2-s3cret"  # noqa: S105 - not a real secret
GROUP = typer.main.get_command(app)
COMMANDS = sorted(GROUP.list_commands(None)) if hasattr(GROUP, "list_commands") else []


@dataclass(frozen=True)
class Workspace:
    """A working folder with sample shards, a store and a Dagster instance."""

    folder: Path

    @classmethod
    def made(cls, folder: Path, sample_folder: Path) -> Workspace:
        """Makes a new workspace."""
        copy_sample(sample_folder, folder / "source")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DAGSTER_HOME", "restored afterwards")
            make_instance(folder / "home")
        return cls(folder)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LAION_")}
        return kept | {
            "COLUMNS": "250",
            "DAGSTER_HOME": str(self.folder / "home"),
            "LAION_DATASET": "sample",
            "LAION_SOURCE": str(self.folder / "source"),
            "LAION_DATA_DIR": str(self.folder / "data"),
            "LAION_CLICKHOUSE_WAIT_SECONDS": "1",
        }

    def start(self, *arguments: str, **changed: str) -> ForkedProcess:
        """Starts the command."""
        return ForkedProcess("-m", "laion_assets.cli", *arguments, cwd=self.folder, env=self.environment | changed)

    def run(self, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Runs the command and waits until it exits."""
        with self.start(*arguments, **changed) as process:
            said, complained = process.communicate(timeout=150)
        return subprocess.CompletedProcess(arguments, process.wait(), said, complained)

    def partitions(self) -> list[tuple[int, int, int]]:
        """Shard, rows and parts of each partition of the table."""
        with connect(load_settings(dataset_name="sample", data_dir=self.folder / "data")) as db:
            return [(state.shard, state.rows, state.parts) for state in partitions(db)]


@dataclass(frozen=True)
class Story:
    """A load of shards 0 to 2 with one corrupt shard, the same load after its repair, and the partitions after each."""

    workspace: Workspace
    first: subprocess.CompletedProcess[str]
    after_first: list[tuple[int, int, int]]
    second: subprocess.CompletedProcess[str]
    after_second: list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, sample_folder: Path) -> Story:
    """Runs `load 0-2` twice."""
    workspace = Workspace.made(tmp_path_factory.mktemp("cli"), sample_folder)
    corrupt = workspace.folder / "source" / "text_emb" / "text_emb_1.npy"
    sound = corrupt.read_bytes()
    corrupt.write_bytes(sound[:-1000])
    first = workspace.run("load", "0-2")
    after_first = workspace.partitions()
    corrupt.write_bytes(sound)
    second = workspace.run("load", "0-2")
    return Story(workspace, first, after_first, second, workspace.partitions())


def test_a_load_goes_on_after_a_corrupt_shard_and_exits_with_1(story: Story) -> None:
    assert story.first.returncode == 1, story.first
    assert story.after_first == [(0, SAMPLE_ROWS[0], 1), (2, SAMPLE_ROWS[2], 1)]


def test_a_load_ends_with_a_table_of_what_failed_and_why(story: Story) -> None:
    rows = {cells[0]: cells for line in story.first.stdout.splitlines() if len(cells := outcome_cells(line)) >= 5}
    assert rows["0"][1:3] == ["loaded", "1,000"]
    assert rows["2"][1:3] == ["loaded", "250"]
    assert rows["1"][1:3] == ["failed", "0"]
    assert "text_emb_1.npy" in story.first.stdout
    assert "Traceback" not in story.first.stdout + story.first.stderr


def outcome_cells(line: str) -> list[str]:
    """The cells of a line of the table that a load prints at its end."""
    return [cell.strip() for cell in line.strip("│┃|").split("│")] if "│" in line else []


def test_a_second_load_goes_on_where_the_first_ended(story: Story) -> None:
    assert story.second.returncode == 0, story.second
    rows = {cells[0]: cells for line in story.second.stdout.splitlines() if len(cells := outcome_cells(line)) >= 5}
    assert {shard: cells[1] for shard, cells in rows.items() if shard in "012"} == {
        "0": "was loaded",
        "1": "loaded",
        "2": "was loaded",
    }
    assert story.after_second == [(shard, SAMPLE_ROWS[shard], 1) for shard in range(3)]


def test_a_shard_whose_run_was_killed_after_its_load_is_looked_at_again(tmp_path: Path, sample_folder: Path) -> None:
    """The partition exists and Dagster has recorded it, but the check of the partition never ran."""
    workspace = Workspace.made(tmp_path, sample_folder)
    run_killed_at(workspace, "laion_assets.assets.clickhouse_partition", "partition_figures", "load", "2")
    assert workspace.partitions() == [(2, SAMPLE_ROWS[2], 1)]
    for result in ("loaded", "was loaded"):
        again = workspace.run("load", "2")
        assert again.returncode == 0, again
        assert [cells[1] for line in again.stdout.splitlines() if (cells := outcome_cells(line))[:1] == ["2"]] == [
            result
        ]
    assert workspace.run("status").returncode == 0


DYING = """
import importlib, os, signal, sys
setattr(importlib.import_module(sys.argv[1]), sys.argv[2], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
sys.argv[1:] = sys.argv[3:]
from laion_assets.cli import main
main()
"""


def run_killed_at(workspace: Workspace, module: str, function: str, *arguments: str) -> None:
    """Runs the command, and kills it when it calls `function`."""
    command = ("-c", DYING, module, function, *arguments)
    result = run_forked(*command, cwd=workspace.folder, env=workspace.environment, timeout=150)
    assert result.returncode == -signal.SIGKILL, result


def test_status_says_what_stands_at_each_stage(story: Story) -> None:
    result = story.workspace.run("status", "--json")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["dataset"] == "sample"
    assert (found["partitions"], found["rows"]) == (3, sum(SAMPLE_ROWS[:3]))
    assert (found["shards"]["loaded"], found["shards"]["failed"], found["shards"]["missing"]) == (3, 0, 1)
    assert (found["table_held"], found["healthy"], found["recall"]) == ("", True, None)


def test_status_answers_at_once_while_another_process_holds_the_table(story: Story) -> None:
    patient = {"LAION_CLICKHOUSE_WAIT_SECONDS": "100000"}
    with holder(story.workspace.folder / "data") as process:
        result = story.workspace.run("status", "--json", **patient)
        shown = story.workspace.run("status", **patient)
    assert (result.returncode, shown.returncode) == (0, 0), "nothing that is known is bad"
    assert (result.stderr, shown.stderr) == ("", ""), "also the engine is silent"
    found: dict[str, Any] = json.loads(result.stdout)
    assert f"held by process {process.pid}" in found["table_held"]
    assert (found["partitions"], found["rows"]) == (None, None)
    assert found["shards"]["loaded"] == 3
    told = {each["check"]: each["passed"] for each in found["findings"]}
    assert told["table_agrees_with_dagster"] is None
    assert told["no_shards_left_failed"] is True
    assert f"table: not read (embedded ClickHouse in {story.workspace.folder}" in shown.stdout
    assert f"held by process {process.pid}" in shown.stdout


def test_status_holds_the_plan_of_the_last_load_against_what_happened(story: Story) -> None:
    plan = {one["name"]: one for one in json.loads(story.workspace.run("status", "--json").stdout)["plan"]}
    assert {"fetch", "merge", "load", "checks", "time", "disk", "memory to load"} <= set(plan)
    raw = sum(path.stat().st_size for path in (story.workspace.folder / "source").glob("*/*_1.*"))
    assert plan["bytes of the source"]["planned"] == plan["bytes of the source"]["actual"] == raw, "shard 1 was left"
    assert all(plan[name]["actual"] > 0 for name in ("merge", "load", "checks", "disk", "memory to load"))


def test_a_plan_leaves_out_what_is_loaded_and_says_so(story: Story) -> None:
    settings = load_settings(dataset_name="sample", data_dir=story.workspace.folder / "data")
    keep_calibration(calibration(settings), calibration_path(settings))
    plan = json.loads(story.workspace.run("plan", "0-3", "--json").stdout)
    assert plan["already"] == [0, 1, 2]
    assert [(shard["shard"], shard["rows"], shard["origin"]) for shard in plan["shards"]] == [
        (3, SAMPLE_ROWS[3], "asked")
    ]
    shown = story.workspace.run("plan", "0-3", "--hosts", "2", "--bandwidth", "10")
    assert shown.returncode == 0, shown
    for said in (
        "3 of the shards asked for are loaded",
        "10 MB/s as given",
        "on 2 hosts",
        "LAION_KEEP_MERGED",
        "at rest",
    ):
        assert said in shown.stdout
    assert story.workspace.partitions() == story.after_second, "a plan loads nothing"


def test_status_is_shown_as_a_table(story: Story) -> None:
    result = story.workspace.run("status")
    assert result.returncode == 0, result
    assert "sample: 4 shards" in result.stdout
    assert f"{sum(SAMPLE_ROWS[:3]):,}" in result.stdout


def test_status_of_one_shard_shows_its_files_checks_runs_and_what_to_do(story: Story) -> None:
    found: dict[str, Any] = json.loads(story.workspace.run("status", "--shard", "1", "--json").stdout)
    assert found["history"]["progress"] == "loaded"
    assert set(found["checks"].values()) == {"SUCCEEDED"}
    assert found["runs"][0]["state"] == "SUCCESS"
    assert any("merged_1.parquet" in file for file in found["files"])
    assert found["partition"].startswith(f"{SAMPLE_ROWS[1]:,} rows in 1 part")
    assert found["advice"] == "nothing"
    shown = story.workspace.run("status", "--shard", "3")
    assert shown.returncode == 0, shown
    assert "shard 3: missing" in shown.stdout
    assert "what to do: `laion-assets load 3` runs what is missing" in shown.stdout
    wrong = story.workspace.run("status", "--shard", "9")
    assert wrong.returncode == 2
    assert "0 to 3" in wrong.stderr


def test_status_can_be_watched_until_it_is_interrupted(story: Story) -> None:
    terminal = {"TERM": "xterm", "FORCE_COLOR": "1"}
    with story.workspace.start("status", "--watch", "--every", "0.5", **terminal) as process:
        looks = 0
        for line in process.stdout:
            looks += "Ctrl-C ends" in line
            if looks == 2:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(20) == 0


def test_a_search_like_a_row_finds_the_row_itself(story: Story, sample_shards: list[Shard]) -> None:
    result = story.workspace.run("search", "--like", "10000123", "--exact", "--json", "--limit", "7")
    assert result.returncode == 0, result
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exact"] is True
    assert [each["rank"] for each in found["neighbours"]] == list(range(1, 8))
    itself = next(each for each in found["neighbours"] if each["id"] == 10_000_123)
    assert itself["distance"] == pytest.approx(0, abs=1e-5)
    assert itself["caption"].encode() == sample_shards[1].texts_of_column("caption")[123]
    assert itself["shard"] == 1


def test_a_search_by_a_vector_of_a_file_takes_conditions_and_shards(story: Story, sample_shards: list[Shard]) -> None:
    path = story.workspace.folder / "query.npy"
    np.save(path, sample_shards[0].images[5])
    result = story.workspace.run(
        *("search", "--vector", str(path), "--by", "image", "--exact", "--json"),
        *("--where", "id < 50 OR shard = 2", "--shards", "0"),
    )
    assert result.returncode == 0, result
    found = json.loads(result.stdout)["neighbours"]
    assert found[0]["id"] == 5
    assert len(found) == 10
    assert all(each["id"] < 50 for each in found)


def test_a_search_is_shown_as_a_table(story: Story) -> None:
    result = story.workspace.run("search", "--like", "5", "--exact", "--by", "text", "--limit", "3")
    assert result.returncode == 0, result
    assert "distance" in result.stdout
    assert "exact search of text_embedding" in result.stdout


ERRORS: list[tuple[tuple[str, ...], dict[str, str], str]] = [
    (("load", "9"), {}, "found shard '9', expected 0 to 3"),
    (("load", "abc"), {}, "shard 'abc'"),
    (("load", "0"), {"LAION_KEEP_RAW": "perhaps"}, "LAION_KEEP_RAW"),
    (("load", "0"), {"LAION_DATASET": "laion9000"}, "no preset of that name"),
    (("status",), {"DAGSTER_HOME": "/nowhere"}, "no dagster.yaml in /nowhere"),
    (("status",), {"LAION_CLICKHOUSE": f"http://me:{SECRET}@127.0.0.1:9/d"}, "ClickHouse at http://127.0.0.1:9"),
    (("search", "--like", "999999999"), {}, "id 999999999: found no row"),
    (("search", "--like", "5", "--limit", "10001"), {}, "limit: found 10,001"),
    (("search", "--like", "5", "--limit", "0"), {}, "limit: found 0"),
    (("search", "--like", "5", "--by", "sound"), {}, "expected image or text"),
    (("search", "--like", "5", "--where", "id <"), {}, "expected a SQL condition"),
    (("search", "--vector", "absent.npy"), {}, "vector file absent.npy"),
    (("search", "--like", "5", "--shards", "7"), {}, "found shard '7'"),
]


@pytest.mark.parametrize(("arguments", "changed", "said"), ERRORS)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], changed: dict[str, str], said: str, story: Story
) -> None:
    result = story.workspace.run(*arguments, **changed)
    assert result.returncode == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("laion-assets: ")
    assert said in line
    assert SECRET not in line


def test_a_search_wants_one_query(story: Story) -> None:
    result = story.workspace.run("search")
    assert result.returncode == 2, result
    assert "Traceback" not in result.stderr
    assert "--like" in result.stderr


def wait_for(condition: Callable[[], bool], process: ForkedProcess) -> None:
    """Waits until `condition` is true. Fails if the process exits before."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_ctrl_c_stops_cleanly_and_the_same_call_goes_on(tmp_path: Path, sample_folder: Path) -> None:
    workspace = Workspace.made(tmp_path / "ctrl-c", sample_folder)
    with workspace.start("load", "0-3") as process:
        wait_for((workspace.folder / "data" / "merged" / "merged_1.parquet").exists, process)
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 130, (said, complained)
    assert "the same command continues from there" in said + complained
    assert "Traceback" not in said + complained
    assert all(rows == SAMPLE_ROWS[shard] for shard, rows, _ in workspace.partitions())
    assert len(workspace.partitions()) < 4
    again = workspace.run("load", "0-3")
    assert again.returncode == 0, again
    assert "was loaded" in again.stdout
    assert workspace.partitions() == [(shard, rows, 1) for shard, rows in enumerate(SAMPLE_ROWS)]


def test_the_sample_is_written_where_it_is_wanted(tmp_path: Path, sample_folder: Path) -> None:
    workspace = Workspace.made(tmp_path / "sample", sample_folder)
    result = workspace.run("sample", "made here", "--shards", "2", "--rows", "300", "--seed", "5")
    assert result.returncode == 0, result
    made = workspace.folder / "made here"
    assert [Shard.read(made, shard).rows for shard in range(2)] == [300, 195]
    assert f"LAION_SOURCE={made}" in result.stdout.replace("\n", "")


def test_a_sample_that_cannot_be_written_is_one_line(tmp_path: Path, sample_folder: Path) -> None:
    workspace = Workspace.made(tmp_path / "sample", sample_folder)
    (workspace.folder / "file").write_text("")
    result = workspace.run("sample", "file/below", "--shards", "1", "--rows", "10")
    assert result.returncode == 2, result
    assert "sample in file/below: found Not a directory" in result.stderr
    assert "Traceback" not in result.stderr


SMALL_DEMO = """
from laion_assets.cli import main
from laion_assets.terminal import demo
demo.ROWS = 100
main()
"""
"""The demo with few rows, because two indexes of 60,000 rows take a minute."""


THEIRS = {"LAION_CLICKHOUSE": "http://127.0.0.1:1/theirs", "LAION_TABLE": "theirs", "LAION_STORE": "s3://theirs"}
"""A user's table and store, which the demo must not use: it must not write sample rows there, and neither answers."""


def run_small_demo(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the small demo in a folder."""
    return run_forked(
        *("-c", SMALL_DEMO, "demo", "--folder", str(folder / "demo")),
        cwd=folder,
        env=Workspace(folder).environment | THEIRS,
        timeout=400,
    )


def test_the_demo_ends_with_a_search_over_what_it_loaded_and_measures_once(tmp_path: Path) -> None:
    result = run_small_demo(tmp_path)
    assert result.returncode == 0, result
    assert "exact search" in result.stdout
    assert "shard 3 is in the text cells" in result.stdout
    assert "Done in" in result.stdout
    assert "laion-assets serve --demo" in result.stdout
    with connect(load_settings(dataset_name="sample", data_dir=tmp_path / "demo")) as db:
        found = [(state.shard, state.rows, state.parts) for state in partitions(db)]
        assert db.one(f"SELECT uniqExact(id) FROM {db.table}") == (300,)
    assert found == [(0, 100, 1), (1, 100, 1), (2, 35, 1), (3, 65, 1)]
    again = run_small_demo(tmp_path)
    assert again.returncode == 0, again
    assert "index and recall are those that were built and measured at" in again.stdout
    assert again.stdout.count("text to image") == result.stdout.count("text to image"), "what was measured is shown"
    with dg.DagsterInstance.from_config(str(tmp_path / "demo" / "dagster")) as instance:
        assert len(instance.fetch_materializations(dg.AssetKey("recall_report"), limit=9).records) == 1
        instance.report_runless_asset_event(dg.AssetMaterialization("clickhouse_partition", partition="3"))
        settings = load_settings(dataset_name="sample", data_dir=tmp_path / "demo", hnsw_m=16, hnsw_ef_construction=64)
        assert current_report(settings, instance) is None, "a partition was loaded since"


def test_without_arguments_the_command_shows_its_help(tmp_path: Path) -> None:
    result = Workspace(tmp_path).run()
    assert "Usage" in result.stdout + result.stderr
    for command in COMMANDS:
        assert command in result.stdout + result.stderr


def test_there_are_the_commands_that_the_readme_promises() -> None:
    assert {"demo", "sample", "load", "plan", "search", "status"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """The help begins with the description, and describes every option and subcommand."""
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0
    described = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]  # it is a group
    assert " ".join(described.help.split())[:40] in " ".join(result.output.split())
    own = getattr(described, "commands", {})
    assert own or described.params
    for name, said in own.items():
        assert re.search(rf"\b{name}\b.*\w", result.output)
        assert said.help
    for option in described.params:
        assert option.help, option.name
        # The command passes hidden options only to processes that it starts.
        shown = option.param_type_name == "option" and not option.hidden
        for name in (*option.opts, *option.secondary_opts) if shown else ():
            assert name in result.output
