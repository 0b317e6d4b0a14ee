"""Tests `load_report`: one table row a shard for any text in it, totals, an estimate, and health checks."""

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.assets import load_report
from laion_assets.assets.load_report import CHECKS, load_report_asset
from laion_assets.assets.location import CodeLocation
from laion_assets.health.builds import Builds, look_at_builds
from laion_assets.health.finding import Finding, TableLook
from laion_assets.health.history import ShardHistory
from laion_assets.health.page import report_markdown
from laion_assets.settings import Settings
from laion_assets_tests.automation.recorded import Recorder
from laion_assets_tests.table.loaded import holder, load_sample, sample_settings

STAGES = {"raw_shard": 10.0, "merged_shard": 20.0, "clickhouse_partition": 30.0}
NEVER_AUDITED = {"partitions_were_audited": False}
"""The check that fails for materializations that a test recorded, because no audit has run."""

LOADED = ShardHistory("0", "loaded", rows=1_200_000, quarantined=7, seconds=STAGES, loaded_at=1.0, run_id="a1b2c3d4-e5")


def rows(page: str) -> list[list[str]]:
    """The cells of the page's Markdown table, without its header."""
    table = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]] for line in table[2:]]


def test_a_row_has_state_rows_seconds_a_stage_rate_and_run() -> None:
    (row,) = rows(report_markdown([LOADED], []))
    assert row == [
        "0",
        "loaded",
        "",
        "1,200,000",
        "7",
        "10.0",
        "20.0",
        "30.0",
        "20,000",
        "[a1b2c3d4](/runs/a1b2c3d4-e5)",
        "",
    ]


def test_totals_and_the_time_to_the_end() -> None:
    page = report_markdown([LOADED, ShardHistory("1"), ShardHistory("2", last_run="failed")], [])
    assert "**1 of 3 shards loaded, 1,200,000 rows.** 2 shards to go: 2 minutes of work, one after the other." in page
    slow = ShardHistory("0", "loaded", seconds={"raw_shard": 3600.0}, rows=1)
    assert "9 shards to go: 9.0 hours of work" in report_markdown(
        [slow, *(ShardHistory(str(key)) for key in range(9))], []
    )
    assert "to go" not in report_markdown([LOADED], [])
    assert "**0 of 1 shard loaded, 0 rows.**" in report_markdown([ShardHistory("0")], [])


def test_shards_that_were_never_begun_have_no_row() -> None:
    assert [row[0] for row in rows(report_markdown([ShardHistory("0"), ShardHistory("1", last_run="queued")], []))] == [
        "1"
    ]


@pytest.mark.parametrize(
    "error",
    [
        "a | b",
        "two\nlines",
        "a\\|b",
        "tabs\tand\r\nmore",
        "<script>alert(1)</script>",
        "[x](http://y)",
        "x" * 299 + "|",
    ],
)
def test_an_error_stays_in_its_cell(error: str) -> None:
    page = report_markdown([ShardHistory("0", last_run="failed", run_id="r", error=error), LOADED], [])
    failed, loaded = rows(page)
    assert len(failed) == len(loaded) == 11
    assert re.sub(r"\\(.)", r"\1", failed[-1]) == " ".join(error.split())
    assert "<script" not in page.replace("\\<", "")


def test_a_long_error_is_cut() -> None:
    (row,) = rows(report_markdown([ShardHistory("0", last_run="failed", error="word " * 1000)], []))
    assert len(row[-1]) <= 300


def test_findings_stand_first() -> None:
    page = report_markdown(
        [], [Finding("ingest_is_moving", True, "all"), Finding("disk_space_suffices", False, "1\n2")]
    )
    assert page.splitlines()[:2] == ["- passed `ingest_is_moving`: all", "- **failed** `disk_space_suffices`: 1 2"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a table with shards 0 and 1 of the sample's four."""
    settings = sample_settings(tmp_path_factory.mktemp("report"))
    load_sample(settings, {0: 60, 1: 80})
    return settings


@pytest.fixture
def recorder(loaded: Settings) -> Iterator[Recorder]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Recorder(instance, loaded)


def materialize(recorder: Recorder, settings: Settings) -> tuple[dict[str, object], dict[str, dg.AssetCheckEvaluation]]:
    report = load_report_asset(CodeLocation(settings))
    result = dg.materialize([dg.AssetSpec("clickhouse_partition"), report], instance=recorder.instance)
    (materialization,) = result.asset_materializations_for_node("load_report")
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    return {name: value.value for name, value in materialization.metadata.items()}, checks


def test_all_is_well_where_table_and_dagster_agree(recorder: Recorder, loaded: Settings) -> None:
    recorder.load(0, rows=60)
    recorder.load(1, rows=80)
    metadata, checks = materialize(recorder, loaded)
    assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(CHECKS, True) | NEVER_AUDITED
    assert (metadata["rows"], metadata["shards_loaded"], metadata["shards_failed"]) == (140, 2, 0)
    assert "**2 of 4 shards loaded, 140 rows.**" in str(metadata["report"])
    assert [row[:4] for row in rows(str(metadata["report"]))] == [["0", "loaded", "", "60"], ["1", "loaded", "", "80"]]


def test_failed_shards_and_drift_fail_its_checks_and_not_the_report(recorder: Recorder, loaded: Settings) -> None:
    recorder.load(0, rows=59)
    recorder.load(3, rows=10)
    recorder.fail(2, message="shard 2: found a | in it")
    metadata, checks = materialize(recorder, loaded)
    assert not checks["no_shards_left_failed"].passed
    assert checks["no_shards_left_failed"].description == "1 shard failed: shard 2: found a | in it"
    drift = checks["table_agrees_with_dagster"]
    assert not drift.passed
    assert drift.description == (
        "shard 0: 60 rows in the table, 59 by Dagster; shard 1: 80 rows in the table, 0 by Dagster; "
        "shard 3: 0 rows in the table, 10 by Dagster"
    )
    assert checks["ingest_is_moving"].passed
    assert metadata["shards_failed"] == 1
    assert [row[1:3] for row in rows(str(metadata["report"]))] == [
        ["loaded", ""],
        ["missing", "failed"],
        ["loaded", ""],
    ]


def test_a_load_that_ends_while_the_table_is_waited_for_is_no_drift(
    recorder: Recorder, loaded: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:

    def waits(settings: Settings) -> tuple[TableLook, Builds | None]:
        recorder.load(1, rows=80)
        return look_at_builds(settings)

    recorder.load(0, rows=60)
    monkeypatch.setattr(load_report, "look_at_builds", waits)
    metadata, verdicts = materialize(recorder, loaded)
    assert verdicts["table_agrees_with_dagster"].passed, verdicts["table_agrees_with_dagster"].description
    assert metadata["shards_loaded"] == 2


def test_while_the_table_is_held_the_report_is_made_and_only_that_check_is_left_out(
    recorder: Recorder, loaded: Settings
) -> None:
    recorder.load(0, rows=60)
    recorder.load(1, rows=80)
    with holder(loaded.data_dir) as process:
        metadata, checks = materialize(recorder, loaded.model_copy(update={"clickhouse_wait_seconds": 0.5}))
    told = set(CHECKS) - {"table_agrees_with_dagster"}
    assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(told, True) | NEVER_AUDITED
    assert f"held by process {process.pid}" in str(checks["engine_is_given_back"].description)
    assert "- *not told* `table_agrees_with_dagster`: the table was not read: embedded" in str(metadata["report"])
    assert f"held by process {process.pid}" in str(metadata["report"])
    assert "**2 of 4 shards loaded, 140 rows.**" in str(metadata["report"])


def test_one_check_can_be_asked_for_alone(recorder: Recorder, loaded: Settings) -> None:
    recorder.load(0, rows=60)
    key = dg.AssetCheckKey(dg.AssetKey("load_report"), "table_agrees_with_dagster")
    result = dg.materialize(
        [dg.AssetSpec("clickhouse_partition"), load_report_asset(CodeLocation(loaded))],
        instance=recorder.instance,
        selection=dg.AssetSelection.checks(key),
    )
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("table_agrees_with_dagster", False)
    assert result.get_asset_materialization_events() == []


def test_before_anything_is_loaded_all_is_well(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        metadata, checks = materialize(Recorder(instance, settings), settings)
    told = set(CHECKS) - {"disk_space_suffices"}
    assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(told, True)
    assert "**0 of 4 shards loaded, 0 rows.**" in str(metadata["report"])
