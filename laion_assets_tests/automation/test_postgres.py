"""Tests a backfill with PostgreSQL as Dagster's storage: four runs at a time, one at the table, a killed daemon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.health.history import read_histories
from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import partitions
from laion_assets_tests.automation.services import Services, wait_for
from laion_assets_tests.postgres import needs_postgres, private_cluster

pytestmark = needs_postgres

SHARDS = 8
ROWS = 120
RUNS = 4
"""The limit of concurrent runs in deploy/dagster.yaml."""

TABLE_STEPS = ("clickhouse_partition", "clickhouse_partition_partition_matches_parquet")


@dataclass(frozen=True)
class Load:
    """Settings for eight sample shards, and Dagster services that use PostgreSQL."""

    settings: Settings
    services: Services

    def loaded(self) -> int:
        """The number of loaded shards."""
        instance = self.services.instance
        histories = read_histories(instance, self.settings)
        return sum(history.state == "loaded" for history in histories)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    for shard in range(SHARDS):
        write_sample_shard(tmp_path / "sample", shard, ROWS)
    (tmp_path / "eight.toml").write_text(f'name = "eight"\nshards = {SHARDS}\ndimension = 512\n')
    data = tmp_path / "data"
    settings = load_settings(
        dataset_name=str(tmp_path / "eight.toml"), data_dir=data, source=(str(tmp_path / "sample"),)
    )
    environment = {
        "LAION_DATASET": str(tmp_path / "eight.toml"),
        "LAION_SOURCE": str(tmp_path / "sample"),
        "LAION_DATA_DIR": str(data),
        "LAION_INDEX_FIRST": "1000",
        "DAGSTER_LOCAL_DIR": str(tmp_path / "local"),
    }
    with private_cluster() as address:
        for name, value in {**environment, **address}.items():
            monkeypatch.setenv(name, value)
        services = Services(tmp_path / "home", {**environment, **address}, "deploy/dagster.yaml")
        try:
            services.start_webserver()
            services.start_daemon()
            yield Load(settings, services)
        finally:
            services.stop()


def test_four_runs_at_a_time_one_at_the_table_and_a_killed_daemon_loses_nothing(load: Load) -> None:
    backfill = load.services.launch_backfill(list(CHAIN), load.settings.dataset.shard_keys)
    wait_for(lambda: load.loaded() >= 3 or None, seconds=600, what="the third loaded shard")
    load.services.kill("daemon")
    load.services.start_daemon()
    status = wait_for(lambda: _end(load, backfill), seconds=1200, what="the end of the backfill")

    # Runs that the daemon was launching when it died never start. Run monitoring fails them, and the test requests them
    # again.
    instance = load.services.instance
    histories = read_histories(instance, load.settings)
    left = [history.key for history in histories if history.state != "loaded"]
    assert len(left) <= RUNS
    assert (status == "COMPLETED_SUCCESS") == (not left)
    if left:
        retry = load.services.launch_backfill(list(CHAIN), left)
        assert wait_for(lambda: _end(load, retry), seconds=600, what="the retry") == "COMPLETED_SUCCESS"

    with connect(load.settings) as db:
        assert {state.shard: state.rows for state in partitions(db)} == dict.fromkeys(range(SHARDS), ROWS)
    instance = load.services.instance
    runs = instance.get_run_records(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    assert sorted(int(run.dagster_run.tags[PARTITION_TAG]) for run in runs) == list(range(SHARDS))
    for shard in range(SHARDS):
        wanted = dg.AssetRecordsFilter(dg.AssetKey(CHAIN[-1]), asset_partitions=[str(shard)])
        assert len(instance.fetch_materializations(wanted, limit=10).records) == 1
    together = _most_at_once([(run.start_time or 0, run.end_time or 0) for run in runs if run.start_time])
    assert 2 <= together <= RUNS
    at_table = [times for run in runs for times in _table_steps(instance, run.dagster_run.run_id)]
    assert len(at_table) >= len(TABLE_STEPS) * (SHARDS - len(left))
    assert _most_at_once(at_table) == 1


def _end(load: Load, backfill: str) -> str | None:
    status = load.services.backfill_status(backfill)
    return None if status in ("REQUESTED", "CANCELING") else status


def _table_steps(instance: dg.DagsterInstance, run_id: str) -> list[tuple[float, float]]:
    """Start and end times of the steps of a run that use the table."""
    stats = instance.get_run_step_stats(run_id, list(TABLE_STEPS))
    return [(step.start_time, step.end_time) for step in stats if step.start_time and step.end_time]


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """The largest number of time spans that overlap."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
