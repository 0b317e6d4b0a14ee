"""Tests shard checks run without a partition: they check all loaded shards, oldest check first, and record each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from laion_assets.assets import clickhouse_partition, location
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.dagster_internals.records import PartitionKeyFilter
from laion_assets.definitions import build_definitions
from laion_assets.errors import StoreError
from laion_assets.health.audits import last_audits
from laion_assets.health.facts import read_audit
from laion_assets.health.history import read_histories
from laion_assets.health.keys import AUDIT_JOB, CHAIN, LOAD_JOB
from laion_assets.settings import Settings
from laion_assets.shard.merged import read_merged
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import settings_for
from laion_assets_tests.table.loaded import holder

MATCHES = dg.AssetCheckKey(dg.AssetKey("clickhouse_partition"), "partition_matches_parquet")
SOUND = dg.AssetCheckKey(dg.AssetKey("merged_shard"), "vectors_are_sound")
ROWS_AGREE = dg.AssetCheckKey(dg.AssetKey("raw_shard"), "rows_agree")


@pytest.fixture(scope="module")
def loaded(
    tmp_path_factory: pytest.TempPathFactory, sample_folder: Path
) -> Iterator[tuple[Settings, dg.DagsterInstance]]:
    """Shards 0 to 2 of the sample, loaded by real runs. A row of shard 1 was changed after its load."""
    settings = settings_for(tmp_path_factory.mktemp("sweep") / "data", sample_folder)
    # SQLite files, as users have them: they number events differently from an instance in memory.
    with dg.DagsterInstance.local_temp() as instance:
        job = build_definitions(settings).resolve_job_def(LOAD_JOB)
        for shard in ("0", "1", "2"):
            assert job.execute_in_process(instance=instance, partition_key=shard).success
        with connect(settings) as db:
            change = "UPDATE caption = 'another' WHERE id = 10000007"
            db.command(f"ALTER TABLE {db.table} {change}", settings={"mutations_sync": 2})
        yield settings, instance


def execute(settings: Settings, instance: dg.DagsterInstance, *keys: dg.AssetCheckKey) -> dict[str, Any]:
    """Executes checks without a partition, as the UI does, and returns their results. Its run fails exactly if one of
    them failed as an error, as it does for a single shard."""
    definitions = build_definitions(settings)
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_check_selection=set(keys), asset_selection=set()
    )
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    errors = [
        check
        for check in result.get_asset_check_evaluations()
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    ]
    assert result.success == (not errors)
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_a_sweep_says_which_shards_fail_and_records_each(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    checks = execute(settings, instance, MATCHES, SOUND)
    matches = checks["partition_matches_parquet"]
    assert not matches.passed
    assert matches.description.startswith("3 of 3 shards checked in less than a minute, 1 failed: shard 1: ")
    assert matches.metadata["failed_shards"].value == "1"
    assert (matches.metadata["checked"].value, matches.metadata["not_reached"].value) == (3, 0)
    assert checks["vectors_are_sound"].passed
    assert {key: passed for key, (_, passed) in last_audits(instance, settings).items()} == {
        "0": True,
        "1": False,
        "2": True,
    }
    audit = read_audit(instance, settings, read_histories(instance, settings))
    assert audit.failed == {"1"}
    assert not audit.never
    assert audit.oldest_at is not None
    assert 0 < time.time() - audit.oldest_at < 600


def test_each_sweep_records_each_shard(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    for _ in range(2):
        execute(settings, instance, MATCHES)
    for shard in ("0", "1", "2"):
        results = instance.event_log_storage.get_asset_check_execution_history(
            MATCHES, limit=9, partition_filter=PartitionKeyFilter(key=shard)
        )
        assert len({result.run_id for result in results}) == len(results) >= 3, "one of its load, one of each sweep"


def test_shards_whose_files_are_gone_are_left_out(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    checks = execute(settings, instance, ROWS_AGREE)
    assert not checks["rows_agree"].passed, "raw files go after the merge: nothing is known"
    assert checks["rows_agree"].severity == dg.AssetCheckSeverity.WARN
    assert "no loaded shard has the files that this check reads" in checks["rows_agree"].description
    assert checks["rows_agree"].metadata["checked"].value == 0


def test_a_sweep_is_bounded_in_time_and_goes_on_with_the_oldest(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    short = settings.model_copy(update={"sweep_hours": 0.0})
    before = last_audits(instance, settings)
    matches = execute(short, instance, MATCHES)["partition_matches_parquet"]
    assert matches.metadata["not_reached"].value + matches.metadata["checked"].value == 3
    assert "were not reached within LAION_SWEEP_HOURS" in matches.description
    assert (matches.passed, matches.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert last_audits(instance, settings) == before


def unreadable(monkeypatch: pytest.MonkeyPatch, *shards: int) -> list[int]:
    """Makes reads of these shards' merged files fail. Returns a list to which each shard is added that is read."""
    seen: list[int] = []

    def read(path: Any, **more: Any) -> Any:
        seen.append(more["shard"])
        if more["shard"] in shards:
            raise StoreError(path.name, found="Input/output error", expected="a readable file")
        return read_merged(path, **more)

    monkeypatch.setattr(clickhouse_partition, "read_merged", read)
    monkeypatch.setattr(location, "FIRST_WAIT_SECONDS", 0.01)
    return seen


def test_a_shard_that_cannot_be_read_does_not_keep_the_others_from_their_checks(
    loaded: tuple[Settings, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, instance = loaded
    before = last_audits(instance, settings)
    seen = unreadable(monkeypatch, 0)
    for _ in range(2):
        matches = execute(settings, instance, MATCHES)["partition_matches_parquet"]
        assert not matches.passed
        assert "2 of 3 shards checked" in matches.description
        assert "1 could not be checked: shard 0: merged_0.parquet: found Input/output error" in matches.description
        assert matches.metadata["not_looked_at_shards"].value == "0"
    after = last_audits(instance, settings)
    assert after["0"] == before["0"], "nothing is known about it"
    assert min(after["1"][0], after["2"][0]) > max(before["1"][0], before["2"][0])
    assert seen[-3:] == [0, 1, 2], "it is looked at first each time"


@pytest.mark.parametrize("held", [True, False])
def test_a_sweep_that_can_look_at_no_shard_fails_and_says_nothing_about_them(
    loaded: tuple[Settings, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    settings, instance = loaded
    before = last_audits(instance, settings)
    seen = unreadable(monkeypatch, *([] if held else [0, 1, 2]))
    hasty = settings.model_copy(update={"clickhouse_wait_seconds": 0.0})
    job = build_definitions(hasty).resolve_job_def(AUDIT_JOB)
    with holder(settings.data_dir) if held else nullcontext():
        result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert result.get_asset_check_evaluations() == []
    assert last_audits(instance, settings) == before
    assert len(seen) == (0 if held else 4 * 3), "the step is repeated three times"


def test_the_audit_job_checks_one_partition_and_loads_nothing(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    before = last_audits(instance, settings)
    job = build_definitions(settings).resolve_job_def(AUDIT_JOB)
    result = job.execute_in_process(instance=instance, tags={PARTITION_TAG: "2"})
    assert result.success
    assert result.get_asset_materialization_events() == []
    after = last_audits(instance, settings)
    assert after["2"][0] > before["2"][0]
    assert after["0"] == before["0"]
    assert [history.last_run for history in read_histories(instance, settings)][:3] == ["succeeded"] * 3


def test_a_check_with_a_partition_looks_at_that_one(loaded: tuple[Settings, dg.DagsterInstance]) -> None:
    settings, instance = loaded
    job = build_definitions(settings).resolve_job_def(AUDIT_JOB)
    result = job.execute_in_process(instance=instance, tags={PARTITION_TAG: "1"}, raise_on_error=False)
    (check,) = result.get_asset_check_evaluations()
    assert (check.partition, check.passed) == ("1", False)
    assert CHAIN[-1] == check.asset_key.to_user_string()


def test_a_partition_that_somebody_reported_in_the_ui_fails_in_words(
    loaded: tuple[Settings, dg.DagsterInstance],
) -> None:
    """A materialization reported in the UI has no metadata. The merged file is missing, so nothing can be compared."""
    settings, instance = loaded
    merged = settings.data_dir / "merged" / "merged_2.parquet"
    away = merged.rename(merged.with_name("away"))
    instance.report_runless_asset_event(dg.AssetMaterialization("clickhouse_partition", partition="2"))
    try:
        matches = execute(settings, instance, MATCHES)["partition_matches_parquet"]
    finally:
        away.rename(merged)
    assert matches.metadata["failed_shards"].value == "1-2"
    assert "an unknown number loaded" in matches.description
