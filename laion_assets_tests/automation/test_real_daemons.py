"""Tests a backfill of six shards in real Dagster: a corrupt shard and its retry, a killed daemon, milestones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets_tests.automation.services import Services, wait_for

SHARDS = 6
ROWS = 120
CORRUPT = 4

DATASET = f"""
name = "six"
shards = {SHARDS}
dimension = 512
clip_model = "sample"
[[sources]]
url = "{{data_dir}}/sample"
"""


class Load:
    """Six sample shards, their settings, and the Dagster services that load them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for shard in range(SHARDS):
            write_sample_shard(folder / "data" / "sample", shard, ROWS)
        (folder / "six.toml").write_text(DATASET)
        self.environment = {
            "LAION_DATASET": str(folder / "six.toml"),
            "LAION_DATA_DIR": str(folder / "data"),
            "LAION_INDEX_FIRST": "3",
            "LAION_INDEX_STEP": "2",
            "LAION_RECALL_QUERIES": "2",
            "LAION_HNSW_M": "8",
            "LAION_HNSW_EF_CONSTRUCTION": "32",
        }
        self.settings: Settings = load_settings(
            dataset_name=str(folder / "six.toml"), data_dir=folder / "data", source=()
        )
        self.services = Services(folder / "home", self.environment)

    def histories(self) -> list[ShardHistory]:
        return read_histories(self.services.instance, self.settings)

    def table_rows(self) -> dict[int, int]:
        with connect(self.settings) as db:
            return {state.shard: state.rows for state in partitions(db)}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    made = Load(tmp_path_factory.mktemp("six"))
    try:
        made.services.start_webserver()
        made.services.start_daemon()
        yield made
    finally:
        made.services.stop()


def _damage(load: Load) -> bytes:
    path = load.folder / "data" / "sample" / "img_emb" / f"img_emb_{CORRUPT}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    return whole


def _mend(load: Load, whole: bytes) -> None:
    path = load.folder / "data" / "sample" / "img_emb" / f"img_emb_{CORRUPT}.npy"
    fresh = path.with_suffix(".new")
    fresh.write_bytes(whole)
    fresh.replace(path)


def test_a_backfill_with_a_corrupt_shard_a_kill_and_a_retry(load: Load) -> None:
    whole = _damage(load)
    backfill = load.services.launch_backfill(list(CHAIN), load.settings.dataset.shard_keys)

    # The daemon is killed during the backfill and started again. No row may be lost or doubled.
    wait_for(
        lambda: any(history.state == "loaded" for history in load.histories()) or None,
        seconds=180,
        what="the first loaded shard",
    )
    load.services.kill("daemon")
    load.services.start_daemon()

    status = wait_for(lambda: _end(load, backfill), seconds=300, what="the end of the backfill")
    assert status == "COMPLETED_FAILED"
    histories = load.histories()
    left = [history.key for history in histories if history.state == "failed"]
    # A run that the daemon was launching when it died never starts. Run monitoring fails it, and the test retries it.
    assert str(CORRUPT) in left
    assert len(left) <= 2
    failed = histories[CORRUPT]
    assert f"img_emb_{CORRUPT}.npy" in failed.error
    assert "expected" in failed.error

    _mend(load, whole)
    retry = load.services.launch_backfill(list(CHAIN), left)
    assert wait_for(lambda: _end(load, retry), seconds=300, what="the end of the retry") == "COMPLETED_SUCCESS"
    assert {history.state for history in load.histories()} == {"loaded"}

    _index_then_report(load)
    assert load.table_rows() == dict.fromkeys(range(SHARDS), ROWS)
    _checks_are_recorded_by_partition(load)


def _end(load: Load, backfill: str) -> str | None:
    status = load.services.backfill_status(backfill)
    return None if status in ("REQUESTED", "CANCELING") else status


def _index_then_report(load: Load) -> None:
    """Waits until the daemon has indexed and then measured the last milestone: all six shards."""

    def covered_and_reported() -> bool | None:
        index = load.services.instance.get_latest_materialization_event(dg.AssetKey("vector_index"))
        report = load.services.instance.get_latest_materialization_event(dg.AssetKey("recall_report"))
        if index is None or index.asset_materialization is None or report is None:
            return None
        covered = index.asset_materialization.metadata["covered_shards"].value
        return True if covered == f"0-{SHARDS - 1}" and report.timestamp > index.timestamp else None

    wait_for(covered_and_reported, seconds=300, what="index and report at the last milestone")


def _checks_are_recorded_by_partition(load: Load) -> None:
    data = load.services.query(
        "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode { assetChecksOrError { "
        "... on AssetChecks { checks { name partitionStatuses { __typename ... on AssetCheckDefaultPartitionStatuses "
        "{ succeededPartitions failedPartitions } } } } } } } }",
        key={"path": ["clickhouse_partition"]},
    )
    checks = data["assetNodeOrError"]["assetChecksOrError"]["checks"]
    assert [check["name"] for check in checks] == ["partition_matches_parquet"]
    statuses = checks[0]["partitionStatuses"]
    assert sorted(statuses["succeededPartitions"]) == load.settings.dataset.shard_keys
    assert statuses["failedPartitions"] == []
