"""Tests how the last checks of partitions are read: a failed one is found, and planned ones cost no query each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from laion_assets.health import audits
from laion_assets.health.audits import AUDIT_CHECK, failed_audits, last_audits
from laion_assets.health.keys import CHAIN, asset_key
from laion_assets.settings import load_settings
from laion_assets_tests.automation.recorded import Recorder

SHARDS = 30
FAILED, PASSED = 3, 4


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    """Loads that are queued for all shards. Two were loaded and checked before, and one of these checks failed."""
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path, source=(str(tmp_path),))
    with dg.DagsterInstance.ephemeral() as instance:
        made = Recorder(instance, settings)
        for shard in (FAILED, PASSED):
            run = made.run(shard, DagsterRunStatus.SUCCESS)
            evaluation = dg.AssetCheckEvaluation(
                asset_key(settings, CHAIN[-1]), AUDIT_CHECK, shard == PASSED, {}, partition=str(shard)
            )
            kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
            event = dg.DagsterEvent(kind, run.job_name, event_specific_data=evaluation)
            instance.report_dagster_event(event, run.run_id)
        for shard in range(SHARDS):
            made.run(shard, DagsterRunStatus.QUEUED)
        yield made


@pytest.mark.parametrize("partitions", [None, {str(FAILED), str(PASSED), "5"}], ids=["all", "few"])
def test_a_failed_check_is_found_behind_one_that_is_planned(recorder: Recorder, partitions: set[str] | None) -> None:
    assert failed_audits(recorder.instance, recorder.settings, partitions).keys() == {str(FAILED)}
    found = last_audits(recorder.instance, recorder.settings)
    assert {shard: passed for shard, (_, passed) in found.items()} == {str(FAILED): False, str(PASSED): True}


def test_planned_checks_of_many_partitions_cost_one_query(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    storage: Any = recorder.instance.event_log_storage
    asked: list[dict[str, object]] = []
    history = storage.get_asset_check_execution_history

    def counted(*arguments: object, **named: object) -> object:
        asked.append(named)
        return history(*arguments, **named)

    monkeypatch.setattr(storage, "get_asset_check_execution_history", counted)
    assert failed_audits(recorder.instance, recorder.settings).keys() == {str(FAILED)}
    assert len(asked) == 1


def test_checks_that_the_newest_pages_do_not_have_are_read_one_by_one(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AUDIT_PAGE": 1, "AUDIT_PAGES": 1, "ONE_BY_ONE": 0}.items():
        monkeypatch.setattr(audits, name, value)
    assert failed_audits(recorder.instance, recorder.settings).keys() == {str(FAILED)}
