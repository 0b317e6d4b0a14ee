"""Tests that a run's statements tell ClickHouse their run, asset and partition, over both transports."""

import json
from pathlib import Path

import dagster as dg

from laion_assets.assets.location import CodeLocation, asset, asset_check
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.label import labelled
from laion_assets_tests.conftest import Transport, settings_for


def said(settings: Settings) -> str:
    """Returns the `log_comment` of a new connection's statements."""
    with connect(settings) as db:
        db.command("SELECT 1")
        return str(db.one("SELECT getSetting('log_comment')")[0])


def test_a_connection_says_what_it_was_opened_for_and_no_more(
    transport: Transport, tmp_path: Path, sample_folder: Path
) -> None:
    settings = settings_for(tmp_path / "data", sample_folder, **transport.fresh())
    with labelled(run_id="a run's id", asset="clickhouse_partition", partition="3"):
        inside = said(settings)
    facts = {"run_id": "a run's id", "asset": "clickhouse_partition", "partition": "3"}
    assert json.loads(inside) == {"from": "laion_assets", **facts}
    assert "run_id" not in said(settings)


def test_steps_and_checks_of_a_run_name_run_asset_and_partition(settings: Settings) -> None:
    location = CodeLocation(settings)
    seen: dict[str, str] = {}

    @asset(location, "clickhouse_partition", "a stand-in", group="shards", kinds=set(), by_shard=True)
    def clickhouse_partition(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        seen["asset"] = said(settings)
        return dg.MaterializeResult()

    @asset_check(location, "clickhouse_partition", "sound", "a stand-in", by_shard=True)
    def sound() -> dg.AssetCheckResult:
        seen["check"] = said(settings)
        return dg.AssetCheckResult(passed=True)

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([clickhouse_partition, sound], partition_key="2", instance=instance)
    expected = {"from": "laion_assets", "run_id": result.run_id, "asset": "clickhouse_partition", "partition": "2"}
    assert {step: json.loads(label) for step, label in seen.items()} == {"asset": expected, "check": expected}
