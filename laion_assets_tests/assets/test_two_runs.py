"""Tests that two runs of one shard on one store both succeed, wherever one overtakes the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from laion_assets.assets import merged_shard, raw_shard
from laion_assets.assets.location import CodeLocation
from laion_assets.health.keys import CHAIN
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings
from laion_assets.shard.merge import merge_shard
from laion_assets.shard.store import ShardStore
from laion_assets_tests.assets.test_chain import failed_checks, failures, materialized, run, table_state
from laion_assets_tests.conftest import Shard, settings_for


@pytest.fixture
def settings(source: Path, tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data", source, clickhouse_wait_seconds=60)


def overtaken(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, other: Callable[[], object]) -> None:
    """Runs `other`, another run, once, immediately before the function `name` is called."""
    whole = getattr(place, name)

    def first(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(place, name, whole)
        other()
        return whole(*arguments, **named)

    monkeypatch.setattr(place, name, first)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (raw_shard, "observe_before_fetch"),
        (merged_shard, "sample_rows"),
    ],
)
def test_a_run_that_is_overtaken_between_steps_succeeds(
    place: Any, name: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            assert run(settings, 1, instance).success

    overtaken(monkeypatch, place, name, other)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(settings, 1, instance)
    assert result.success, (failures(result), failed_checks(result))
    assert [(shard, rows) for shard, rows, _ in table_state(settings)] == [(1, 620)]


@pytest.mark.parametrize("step", ["rows_agree", "merged_shard"])
def test_files_that_another_run_has_merged_and_removed_meanwhile_are_no_failure(
    step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run completes between this run's fetch and check, or between its check and merge."""
    calls: list[str] = []
    look = CodeLocation.merged_meanwhile

    def overtaken_first(location: Any, context: Any, shard: int) -> Any:
        calls.append(step)
        if len(calls) == (1 if step == "rows_agree" else 2):
            remove_by_another_run(settings)
        return look(location, context, shard)

    monkeypatch.setattr(CodeLocation, "merged_meanwhile", overtaken_first)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(settings, 1, instance)
    assert result.success, (failures(result), failed_checks(result))
    assert materialized(result) == list(CHAIN)
    assert table_state(settings)[0][1] == 620


def remove_by_another_run(settings: Settings) -> None:
    """Writes the merged file and removes the raw files, as another complete run does."""
    store = ShardStore.of(settings)
    merge_shard(store, 1, max_bad_fraction=0.001)
    store.remove_raw(1)


def test_raw_files_that_were_deleted_before_their_merge_are_missed_although_an_older_merged_file_is_there(
    settings: Settings, source: Path, sample_shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody makes room on the disk after a failed merge, and then re-executes the run from its failure."""
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(settings, 1, instance).success
        sample_shards[2].write(source, 1)
        store = ShardStore.of(settings)
        overtaken(monkeypatch, merged_shard, "StepMeter", lambda: store.remove_raw(1))
        result = run(settings, 1, instance)
        assert "materialize raw_shard for partition 1 first" in failures(result)[0]
        assert [rows for _, rows, _ in table_state(settings)] == [620]
        assert run(settings, 1, instance).success
    assert [rows for _, rows, _ in table_state(settings)] == [250]


def test_a_merge_that_is_asked_for_alone_still_needs_the_raw_files(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(settings, 1, instance).success
        result = run(settings, 1, instance, "merged_shard")
        assert "a merge removes them" in failures(result)[0]


def test_a_source_that_changed_is_fetched_and_merged_although_a_merged_file_is_there(
    settings: Settings, source: Path, sample_shards: list[Shard]
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert run(settings, 1, instance).success
        sample_shards[2].write(source, 1)
        assert run(settings, 1, instance).success
    assert table_state(settings)[0][1] == 250


def test_runs_side_by_side_in_threads_both_succeed(settings: Settings, source: Path) -> None:
    write_sample_shard(source, 1, 620, seed=5)
    ends: list[tuple[bool, list[str], dict[str, str]]] = []

    def work() -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            result = run(settings, 1, instance)
            ends.append((result.success, failures(result), failed_checks(result)))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [(True, [], {})] * 2
    assert table_state(settings)[0][1] == 620
