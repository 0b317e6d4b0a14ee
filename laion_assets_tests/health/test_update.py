"""Tests that an update builds stale and missing assets again, in order, and no others."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from rich.console import Console

from laion_assets.assets import clickhouse_partition
from laion_assets.automation.update import read_update, submit_update
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.definitions import build_definitions
from laion_assets.health.facts import read_facts
from laion_assets.health.findings import look_at_table, table_agrees_with_dagster
from laion_assets.health.history import read_histories
from laion_assets.health.keys import AUDIT_JOB, BUILD_JOB, CHAIN, UPDATE_JOB, asset_key
from laion_assets.health.under_way import RunUnderWay, other_active_runs
from laion_assets.health.update import what_to_update
from laion_assets.health.upkeep import partitions_were_audited
from laion_assets.plan.kept_plan import plan_path, read_plan
from laion_assets.sample.shards import write_sample_shard
from laion_assets.settings import Settings, load_settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import PartitionState
from laion_assets.terminal import update as terminal_update
from laion_assets.terminal.load import load, missing_steps
from laion_assets.terminal.plan import keep_plan_for
from laion_assets.terminal.runs import make_run
from laion_assets.terminal.shard import read_shard
from laion_assets_tests.automation.recorded import Recorder
from laion_assets_tests.health.test_versions import Chain
from laion_assets_tests.table.loaded import holder


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with dg.DagsterInstance.local_temp() as instance:
        yield Chain(tmp_path, instance, index_first=1, hnsw_m=8, hnsw_ef_construction=32, recall_queries=2)


def test_only_what_is_stale_or_missing_is_made_and_the_job_asks_for_it_in_one_backfill(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_update(chain.settings, chain.instance).nothing, "nobody asked for anything"
    chain.run(0)
    chain.run(1, "raw_shard", "merged_shard")
    update = read_update(chain.settings, chain.instance)
    assert update.shards == {1: ("clickhouse_partition",)}
    assert (update.index, update.recall) == (True, True)
    assert str(update) == "1 shard (1), the index, its recall"
    chain.run(1, "clickhouse_partition")
    build = build_definitions(chain.settings).resolve_job_def(BUILD_JOB)
    assert build.execute_in_process(instance=chain.instance).success
    assert read_update(chain.settings, chain.instance).nothing
    write_sample_shard(chain.folder / "sample", 1, 70)
    chain.observe()
    assert read_update(chain.settings, chain.instance).shards == {1: CHAIN}
    assert read_update(chain.settings, chain.instance, "0").shards == {}, "shard 1 was not asked for"
    assert read_update(chain.settings, chain.instance, "2").shards == {2: CHAIN}

    environment = {
        "LAION_DATASET": "sample",
        "LAION_SOURCE": str(chain.folder / "sample"),
        "LAION_DATA_DIR": str(chain.folder / "data"),
        "LAION_INDEX_FIRST": "1",
        "LAION_HNSW_M": "8",
        "LAION_HNSW_EF_CONSTRUCTION": "32",
        "LAION_RECALL_QUERIES": "2",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    location = ReconstructableRepository.for_module("laion_assets.definitions", "defs")
    with dg.execute_job(location.get_reconstructable_job(UPDATE_JOB), instance=chain.instance) as done:
        assert done.success
    (backfill,) = chain.instance.get_backfills(filters=BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED]))
    data = backfill.get_asset_backfill_data(build_definitions(chain.settings).get_repository_def().asset_graph)
    asked = {
        (key.asset_key.to_user_string(), key.partition_key) for key in data.target_subset.iterate_asset_partitions()
    }
    assert asked == {*((name, "1") for name in CHAIN), ("vector_index", None), ("recall_report", None)}


def test_what_a_backfill_will_make_is_not_asked_for_again(chain: Chain) -> None:
    for key in ("0", "1"):
        rows = {"dagster/partition_row_count": 5}
        loaded = dg.AssetMaterialization("clickhouse_partition", partition=key, metadata=rows)
        chain.instance.report_runless_asset_event(loaded)
    update = read_update(chain.settings, chain.instance)
    assert (update.index, update.recall) == (True, True)
    graph = build_definitions(chain.settings).get_repository_def().asset_graph
    backfill = submit_update(chain.settings, chain.instance, graph, update, {})
    assert read_update(chain.settings, chain.instance).nothing
    (waiting,) = other_active_runs(chain.instance, chain.settings)
    made = ("recall_report", "vector_index")
    assert waiting == RunUnderWay(backfill, "queued", "recall_report, vector_index", backfill=True, assets=made)
    asked = chain.instance.get_backfill(backfill)
    assert asked is not None
    chain.instance.update_backfill(asked._replace(status=BulkActionStatus.CANCELED))
    assert read_update(chain.settings, chain.instance) == update, "a canceled one makes nothing"


def test_a_changed_codec_loads_partitions_again_from_their_merged_files(chain: Chain) -> None:
    chain.run(0)
    chain.with_settings(vector_codec="ZSTD(1)")
    assert read_update(chain.settings, chain.instance).shards == {0: ("clickhouse_partition",)}
    merged = chain.folder / "data" / "merged" / "merged_0.parquet"
    merged.unlink()
    assert read_update(chain.settings, chain.instance).shards == {0: CHAIN}, "raw files went after the merge"


def test_a_load_begins_at_the_first_stale_asset_too(chain: Chain) -> None:
    chain.run(0, "raw_shard", "merged_shard")
    chain.observe()
    (history,) = read_histories(chain.instance, chain.settings, ["0"])
    assert missing_steps(chain.settings, history, rows_in_table=0) == ["clickhouse_partition"]
    write_sample_shard(chain.folder / "sample", 0, 70)
    chain.observe()
    (history,) = read_histories(chain.instance, chain.settings, ["0"])
    assert missing_steps(chain.settings, history, rows_in_table=0) == list(CHAIN)


def test_a_partition_that_failed_its_check_or_is_gone_from_the_table_is_loaded_again(chain: Chain) -> None:
    chain.with_settings(index="none")
    for shard in (0, 1):
        chain.run(shard)
    assert read_update(chain.settings, chain.instance).nothing
    with connect(chain.settings) as db:
        change = "UPDATE caption = 'another' WHERE shard = 0"
        db.command(f"ALTER TABLE {db.table} {change}", settings={"mutations_sync": 2})
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 1")
    audit = build_definitions(chain.settings).resolve_job_def(AUDIT_JOB)
    audit.execute_in_process(instance=chain.instance, tags={PARTITION_TAG: "0"}, raise_on_error=False)
    histories = read_histories(chain.instance, chain.settings, ["0", "1"])
    assert [history.audit_failed for history in histories] == [True, False]
    for history, rows, why in zip(histories, (60, 0), ("other rows", "0 rows of it"), strict=True):
        assert missing_steps(chain.settings, history, rows) == ["clickhouse_partition"]
        one = read_shard(chain.settings, chain.instance, history.shard)
        assert f"`laion-assets load {history.key}` loads it again: " in one.advice
        assert why in one.advice
        assert not one.sound
    for asked in ("", "0,1"):
        update = read_update(chain.settings, chain.instance, asked)
        assert update.shards == {0: ("clickhouse_partition",), 1: ("clickhouse_partition",)}
    for shard in (0, 1):
        chain.run(shard, "clickhouse_partition")
        assert read_shard(chain.settings, chain.instance, shard).sound
    assert read_update(chain.settings, chain.instance).nothing


@pytest.fixture
def taken_down(chain: Chain) -> Chain:
    """Two loaded shards; every tenth row of shard 1 was deleted, and its audit has failed."""
    chain.with_settings(index="none")
    for shard in (0, 1):
        chain.run(shard)
    with connect(chain.settings) as db:
        db.command(f"DELETE FROM {db.table} WHERE shard = 1 AND id % 10 = 3", settings={"lightweight_deletes_sync": 2})
    audit = build_definitions(chain.settings).resolve_job_def(AUDIT_JOB)
    audit.execute_in_process(instance=chain.instance, tags={PARTITION_TAG: "1"}, raise_on_error=False)
    return chain


LEFT = (
    "partition 1 has 6 rows fewer than were loaded. Rows were probably deleted. If they were deleted on purpose, "
    "record it by `laion-assets accept 1`. `laion-assets load --again 1` loads all rows again, also deleted ones"
)


@pytest.mark.parametrize("built", [False, True], ids=["marked rows", "rows written again without them"])
def test_a_partition_from_which_rows_were_deleted_is_left_as_it_is(taken_down: Chain, built: bool) -> None:
    chain = taken_down
    if built:
        with connect(chain.settings) as db:
            db.command(f"OPTIMIZE TABLE {db.table} PARTITION 1 FINAL")
    for codec in ("NONE", "ZSTD(1)"):  # another codec makes the shards stale
        chain.with_settings(index="none", vector_codec=codec)
        for asked in ("", "1"):
            update = read_update(chain.settings, chain.instance, asked)
            assert 1 not in update.shards
            assert str(update).endswith(f"Left as it is: {LEFT}")
    assert update.nothing
    history = read_histories(chain.instance, chain.settings, ["1"])[0]
    assert history.audit_failed
    out = io.StringIO()
    assert load(chain.settings, [1], chain.instance, Console(file=out, width=400), again=False)
    assert "left as it is" in out.getvalue()
    assert LEFT in out.getvalue()
    assert read_shard(chain.settings, chain.instance, 1).advice == LEFT
    histories, table = read_histories(chain.instance, chain.settings), look_at_table(chain.settings)
    assert table_agrees_with_dagster(histories, table).seen == LEFT
    facts = read_facts(chain.instance, chain.settings, histories)
    said = partitions_were_audited(histories, facts.audit, 60, table).seen
    assert said.endswith("loads what failed again, but not partitions whose rows were deleted or accepted (1)")
    with connect(chain.settings) as db:
        assert db.one(f"SELECT count() FROM {db.table} WHERE shard = 1") == (54,)
    assert load(chain.settings, [1], chain.instance, Console(quiet=True), again=True)
    with connect(chain.settings) as db:
        assert db.one(f"SELECT count() FROM {db.table} WHERE shard = 1") == (60,)


def test_rows_that_are_deleted_while_an_update_works_stay_deleted(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.with_settings(index="none")
    chain.run(1)
    chain.with_settings(index="none", vector_codec="ZSTD(1)")
    planned = read_update(chain.settings, chain.instance)
    assert planned.shards == {1: ("clickhouse_partition",)}
    with connect(chain.settings) as db:
        db.command(f"DELETE FROM {db.table} WHERE shard = 1 AND id % 10 = 3", settings={"lightweight_deletes_sync": 2})
    monkeypatch.setattr(terminal_update, "read_update", lambda *_: planned)
    out = io.StringIO()
    assert terminal_update.bring_up_to_date(chain.settings, chain.instance, Console(file=out, width=400))
    assert LEFT in out.getvalue()
    with connect(chain.settings) as db:
        assert db.one(f"SELECT count() FROM {db.table} WHERE shard = 1") == (54,)


def test_loaded_shards_are_left_while_it_cannot_be_known_whether_rows_were_deleted(taken_down: Chain) -> None:
    chain = taken_down
    chain.with_settings(index="none", vector_codec="ZSTD(1)")
    with holder(chain.settings.data_dir):
        update = read_update(chain.settings, chain.instance)
    assert update.nothing
    assert "shard 1 is loaded, and the table could not be read: " in str(update)
    (history,) = read_histories(chain.instance, chain.settings, ["1"])
    assert missing_steps(chain.settings, history, None) == []


def test_what_the_table_has_lost_is_not_known_while_another_process_holds_it(chain: Chain) -> None:
    chain.with_settings(index="none")
    chain.run(0)
    with connect(chain.settings) as db:
        db.command(f"ALTER TABLE {db.table} DROP PARTITION 0")
    with holder(chain.settings.data_dir):
        assert read_update(chain.settings, chain.instance).nothing
    assert read_update(chain.settings, chain.instance).shards == {0: ("clickhouse_partition",)}


def test_the_plan_of_another_dataset_or_of_the_load_before_asks_for_nothing(chain: Chain) -> None:
    chain.with_settings(index="none")
    chain.run(0)

    def asked_for(settings: Settings) -> set[str]:
        return read_facts(chain.instance, settings, read_histories(chain.instance, settings)).asked_for

    keep_plan_for(chain.settings, [0, 1], look(chain))
    assert asked_for(chain.settings) == {"1"}
    assert read_update(chain.settings, chain.instance).shards == {1: CHAIN}
    another = load_settings(dataset_name="laion400m", data_dir=chain.settings.data_dir)
    facts = read_facts(chain.instance, another, read_histories(chain.instance, another))
    assert (facts.asked_for, facts.planned_at) == (set(), None)
    assert load(chain.settings, [0], chain.instance, Console(quiet=True), again=False)
    assert asked_for(chain.settings) == set(), "ten were enough"
    assert read_update(chain.settings, chain.instance).nothing
    assert read_plan(plan_path(chain.settings)) is not None, "its figures stay"


def look(chain: Chain) -> list[PartitionState]:
    table = look_at_table(chain.settings)
    assert isinstance(table, list)
    return table


def test_a_run_that_was_canceled_before_its_first_step_changes_nothing(chain: Chain) -> None:
    chain.with_settings(index="none")
    chain.run(0)
    recorder = Recorder(chain.instance, chain.settings)
    for shard in (0, 1):
        chain.instance.report_run_canceled(recorder.run(shard, dg.DagsterRunStatus.QUEUED))
    history, missing = read_histories(chain.instance, chain.settings, ["0", "1"])
    assert (history.last_run, history.run_began, missing.last_run) == ("canceled", False, "canceled")
    assert missing_steps(chain.settings, history, rows_in_table=60) == []
    assert read_update(chain.settings, chain.instance).nothing
    assert read_update(chain.settings, chain.instance, "1").shards == {1: CHAIN}, "it is asked for by name"
    assert missing_steps(chain.settings, missing, rows_in_table=0) == list(CHAIN)


def test_a_run_that_was_canceled_in_a_step_is_done_again(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.with_settings(index="none")
    chain.run(0)

    def interrupted(*_: object, **__: object) -> None:
        chain.instance.report_run_canceling(dg.OpExecutionContext.get().run)
        raise DagsterExecutionInterruptedError

    monkeypatch.setattr(clickhouse_partition, "load_partition", interrupted)
    job = build_definitions(chain.settings).resolve_job_def("load_shards")
    with pytest.raises(DagsterExecutionInterruptedError):
        job.execute_in_process(instance=chain.instance, partition_key="0")
    (history,) = read_histories(chain.instance, chain.settings, ["0"])
    assert (history.last_run, history.run_began) == ("canceled", True)
    assert read_update(chain.settings, chain.instance).shards[0][-1] == "clickhouse_partition"


def test_an_index_that_the_job_builds_is_under_way(chain: Chain) -> None:
    """`laion-assets index` and schedules of users run the job; such a run names no assets."""
    recorder = Recorder(chain.instance, chain.settings)
    recorder.load(0)
    build = build_definitions(chain.settings).resolve_job_def(BUILD_JOB)
    run = make_run(build, chain.instance, tags={})
    histories = read_histories(chain.instance, chain.settings)
    facts = read_facts(chain.instance, chain.settings, histories)
    assert facts.under_way == {"vector_index", "recall_report"}
    update = what_to_update(chain.settings, histories, facts)
    assert (update.index, update.recall) == (False, False)
    chain.instance.report_run_canceled(run)
    facts = read_facts(chain.instance, chain.settings, histories)
    assert what_to_update(chain.settings, histories, facts).index


def test_other_parameters_of_the_index_build_the_index_alone(chain: Chain) -> None:
    chain.run(0)
    build = build_definitions(chain.settings).resolve_job_def(BUILD_JOB)
    assert build.execute_in_process(instance=chain.instance).success
    chain.with_settings(index_first=1, hnsw_m=16, hnsw_ef_construction=32, recall_queries=2)
    update = read_update(chain.settings, chain.instance)
    assert (update.shards, update.index, update.recall) == ({}, True, True)


def test_a_shard_that_is_being_loaded_is_left_alone(chain: Chain) -> None:
    chain.run(0, "raw_shard")
    key = asset_key(chain.settings, "raw_shard")
    job = build_definitions(chain.settings).resolve_job_def("load_shards")
    chain.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset({key}), tags={"dagster/partition": "0"}
    )
    assert read_update(chain.settings, chain.instance).shards == {}
