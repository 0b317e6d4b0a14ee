"""Tests of `laion-assets accept`: what the table has is recorded after a takedown, or if Dagster's records are lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from laion_assets.automation.schedules import failed_to_retry
from laion_assets.automation.update import read_update
from laion_assets.dagster_internals.launching import InMemoryJob, execute_run_iterator
from laion_assets.dagster_internals.names import PARTITION_TAG
from laion_assets.definitions import build_definitions
from laion_assets.errors import LeaseHeldError
from laion_assets.health.findings import look_at_table, table_agrees_with_dagster
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.keys import AUDIT_JOB, CHAIN
from laion_assets.health.recorded_rows import AGAIN_TAG
from laion_assets.settings import load_settings
from laion_assets.table.connect import connect
from laion_assets.table.lease import lease
from laion_assets.terminal.accept import Accepted, accept
from laion_assets.terminal.index import build_and_measure
from laion_assets.terminal.load import load
from laion_assets.terminal.runs import make_run
from laion_assets.terminal.shard import read_shard
from laion_assets_tests.automation.recorded import Recorder
from laion_assets_tests.health.test_versions import Chain
from laion_assets_tests.test_cli import Workspace

OFF_THE_LIST = "`laion-assets accept 1` takes the failed run off the list"
NOT_AGAIN = (
    "the rows of partition 1 were accepted as the table had them. `laion-assets load --again 1` loads the rows of its "
    "files in their place"
)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    """Two loaded shards of 60 rows each."""
    with dg.DagsterInstance.local_temp() as instance:
        chain = Chain(tmp_path, instance, index="none")
        for shard in (0, 1):
            chain.run(shard)
        yield chain


def run(chain: Chain, *statements: str) -> None:
    with connect(chain.settings) as db:
        for statement in statements:
            settings = {"lightweight_deletes_sync": 2, "mutations_sync": 2}
            db.command(statement.replace("laion", db.table), settings=settings)


def accepted(chain: Chain, *shards: int) -> list[Accepted]:
    return list(accept(chain.settings, list(shards), chain.instance))


def history(chain: Chain, shard: int) -> ShardHistory:
    return read_histories(chain.instance, chain.settings)[shard]


def audit(chain: Chain, shard: int) -> bool:
    """Whether the audit of a partition passes."""
    job = build_definitions(chain.settings).resolve_job_def(AUDIT_JOB)
    done = job.execute_in_process(instance=chain.instance, tags={PARTITION_TAG: str(shard)}, raise_on_error=False)
    return all(check.passed for check in done.get_asset_check_evaluations())


def agrees(chain: Chain) -> bool | None:
    table = look_at_table(chain.settings)
    return table_agrees_with_dagster(read_histories(chain.instance, chain.settings), table).passed


def rows_of_1(chain: Chain) -> int:
    with connect(chain.settings) as db:
        (rows,) = db.one(f"SELECT count() FROM {db.table} WHERE shard = 1")
        return int(rows)


@pytest.mark.parametrize("keep_merged", [True, False])
def test_after_a_takedown_audits_and_findings_compare_with_what_was_accepted(chain: Chain, keep_merged: bool) -> None:
    chain.with_settings(index="none", keep_merged=keep_merged)
    if not keep_merged:
        (chain.settings.data_dir / "merged" / "merged_1.parquet").unlink()
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    assert (audit(chain, 1), agrees(chain)) == (False, False)
    assert accepted(chain, 1) == [Accepted(1, 54, "6 rows fewer than were recorded: accepted")]
    assert (audit(chain, 1), agrees(chain)) == (True, True)
    assert read_shard(chain.settings, chain.instance, 1).sound
    assert str(read_update(chain.settings, chain.instance)) == "nothing: all is up to date"
    assert accepted(chain, 1) == [Accepted(1, 54, "recorded already")]
    run(chain, "ALTER TABLE laion UPDATE caption = 'another' WHERE shard = 1 AND id % 10 = 4")
    assert not audit(chain, 1), "a later change is found as before"


def test_accepted_rows_are_loaded_again_only_if_somebody_asks_for_it(chain: Chain) -> None:
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    accepted(chain, 1)
    assert chain.stale_by_dagster(1) == []
    chain.with_settings(index="none", vector_codec="ZSTD(1)")
    assert list(history(chain, 1).stale) == ["clickhouse_partition"]
    update = read_update(chain.settings, chain.instance)
    assert list(update.shards) == [0]
    assert update.left == (NOT_AGAIN,)
    assert read_shard(chain.settings, chain.instance, 1).advice == NOT_AGAIN
    for shard in ("0,1", "1"):
        assert 1 not in read_update(chain.settings, chain.instance, shard).shards
    assert load(chain.settings, [1], chain.instance, Console(quiet=True), again=False)
    assert rows_of_1(chain) == 54
    run(chain, "ALTER TABLE laion DROP PARTITION 1")
    assert load(chain.settings, [1], chain.instance, Console(quiet=True), again=False)
    assert rows_of_1(chain) == 0, "its files still have the deleted rows"
    assert load(chain.settings, [1], chain.instance, Console(quiet=True), again=True)
    assert rows_of_1(chain) == 60
    assert not history(chain, 1).accepted
    assert (audit(chain, 1), agrees(chain), chain.stale(1)) == (True, True, [])


def test_a_run_that_nobody_asked_for_by_name_does_not_load_accepted_rows_again(chain: Chain) -> None:
    """As of a backfill over all partitions: its first step fails, before anything is fetched."""
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    accepted(chain, 1)
    job = build_definitions(chain.settings).resolve_job_def("load_shards")
    done = job.execute_in_process(instance=chain.instance, partition_key="1", raise_on_error=False)
    assert [event.step_key for event in done.all_events if event.is_step_failure] == ["raw_shard"]
    failed = history(chain, 1)
    assert failed.error.startswith("partition 1: found rows that were accepted as the table had them")
    assert rows_of_1(chain) == 54
    assert failed_to_retry([failed], 9)[0] == []
    assert (
        "`laion-assets accept 1` takes the failed run off the list"
        in read_shard(chain.settings, chain.instance, 1).advice
    )
    assert accepted(chain, 1) == [Accepted(1, 54, "as recorded; its failed run no longer counts")]
    assert history(chain, 1).state == "loaded"
    assert history(chain, 1).accepted
    done = job.execute_in_process(instance=chain.instance, partition_key="1", tags={AGAIN_TAG: "true"})
    assert done.success
    assert rows_of_1(chain) == 60


def test_raw_files_of_an_accepted_shard_may_be_fetched(chain: Chain) -> None:
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    accepted(chain, 1)
    chain.run(1, "raw_shard", "merged_shard")
    assert rows_of_1(chain) == 54
    assert history(chain, 1).accepted


def test_a_shard_without_any_row_is_not_accepted(chain: Chain) -> None:
    """A part that was set aside as broken leaves no row either."""
    run(chain, "DELETE FROM laion WHERE shard = 1")
    (one,) = accepted(chain, 1)
    assert "no row in the table, as after a loss of its part" in one.error
    assert not history(chain, 1).accepted


def test_what_was_not_changed_stays_recorded_as_it_was(chain: Chain) -> None:
    """Also where no merged file is kept: such a shard is still loaded again when its source changes."""
    for shard in (0, 1):
        (chain.settings.data_dir / "merged" / f"merged_{shard}.parquet").unlink()
    assert [one.how for one in accepted(chain, 0, 1)] == ["recorded already"] * 2
    assert [history(chain, shard).accepted for shard in (0, 1)] == [False, False]
    chain.with_settings(index="none", vector_codec="ZSTD(1)")
    assert set(read_update(chain.settings, chain.instance).shards) == {0, 1}


def test_a_damaged_merged_file_does_not_keep_a_takedown_from_being_recorded(chain: Chain) -> None:
    merged = chain.settings.data_dir / "merged" / "merged_1.parquet"
    merged.write_bytes(merged.read_bytes()[:-1000])
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    assert accepted(chain, 1) == [Accepted(1, 54, "6 rows fewer than were recorded: accepted")]
    assert audit(chain, 1)


def test_a_run_with_the_tag_that_was_asked_for_before_the_takedown_changes_nothing(chain: Chain) -> None:
    """As of `load --again` that waits in the queue, or of one that somebody re-executes."""
    job = build_definitions(chain.settings).resolve_job_def("load_shards")
    old = make_run(job, chain.instance, assets=CHAIN, key="1", tags={AGAIN_TAG: "true"})
    time.sleep(2.1)  # SQLite keeps the time of a run in whole seconds
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    assert accepted(chain, 1)[0].how.endswith("accepted")
    subset = job.get_subset(asset_selection=old.asset_selection)
    for _ in execute_run_iterator(InMemoryJob(subset), old, chain.instance):
        pass
    assert rows_of_1(chain) == 54
    assert history(chain, 1).error.startswith("partition 1: found rows that were accepted")
    assert read_shard(chain.settings, chain.instance, 1).advice.startswith(OFF_THE_LIST)


def test_an_index_is_built_over_accepted_rows(chain: Chain) -> None:
    chain.with_settings(index="hnsw", index_first=1, hnsw_m=8, hnsw_ef_construction=32, recall_queries=2)
    assert build_and_measure(chain.settings, chain.instance, Console(quiet=True))
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    accepted(chain, 1)
    update = read_update(chain.settings, chain.instance)
    assert (update.shards, update.index, update.recall) == ({}, True, True)
    assert build_and_measure(chain.settings, chain.instance, Console(quiet=True))
    assert read_update(chain.settings, chain.instance).nothing
    assert audit(chain, 1)


def test_a_new_instance_knows_the_partitions_that_were_accepted(chain: Chain) -> None:
    """As after a loss of DAGSTER_HOME: what equals its merged file is loaded, and the rest is as the table has it."""
    (chain.settings.data_dir / "merged" / "merged_1.parquet").unlink()
    with dg.DagsterInstance.local_temp() as new:
        chain.instance = new
        assert agrees(chain) is False
        assert [one.how for one in accepted(chain, 0, 1)] == [
            "equal to its merged file: recorded as loaded",
            "60 rows of which Dagster had no record: accepted",
        ]
        known = [(one.progress, one.rows, one.accepted) for one in read_histories(new, chain.settings, ["0", "1"])]
        assert known == [
            ("loaded", 60, False),
            ("loaded", 60, True),
        ]
        assert (agrees(chain), audit(chain, 0), audit(chain, 1)) == (True, True, True)
        assert read_update(chain.settings, new).nothing
        assert load(chain.settings, [0, 1], new, Console(quiet=True), again=False)
        assert new.get_runs_count(dg.RunsFilter(job_name="load_shards")) == 0
        chain.run(0)
        assert (chain.stale(0), chain.stale_by_dagster(0)) == ([], [])


REFUSED = {
    "unsound": (
        "ALTER TABLE laion UPDATE image_embedding = arrayMap(x -> 0, image_embedding) WHERE shard = 1 AND id % 10 = 3",
        "6 rows or more whose vectors are not sound",
    ),
    "doubled": ("INSERT INTO laion SELECT * FROM laion WHERE shard = 1 AND id % 10 = 3", "6 rows whose id another row"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_rows_that_are_not_sound_are_refused(chain: Chain, kind: str) -> None:
    statement, why = REFUSED[kind]
    run(chain, statement)
    before = history(chain, 1)
    (one,) = accepted(chain, 1)
    assert why in one.error
    assert "nothing was recorded: `laion-assets load --again 1` loads the rows of its files" in one.error
    assert history(chain, 1) == before


def test_a_shard_with_a_queued_run_is_accepted_and_the_run_changes_nothing(chain: Chain) -> None:
    """As after a DELETE while a backfill over all partitions is under way."""
    queued = Recorder(chain.instance, chain.settings).run(1, dg.DagsterRunStatus.QUEUED)
    run(chain, "DELETE FROM laion WHERE shard = 1 AND id % 10 = 3")
    assert accepted(chain, 1) == [Accepted(1, 54, "6 rows fewer than were recorded: accepted")]
    job = build_definitions(chain.settings).resolve_job_def("load_shards")
    done = job.execute_in_process(instance=chain.instance, partition_key="1", tags=queued.tags, raise_on_error=False)
    assert not done.success
    assert rows_of_1(chain) == 54


def test_a_shard_that_was_never_loaded_or_is_being_loaded_is_refused(chain: Chain) -> None:
    run(chain, "ALTER TABLE laion DROP PARTITION 1")
    with dg.DagsterInstance.local_temp() as new:
        chain.instance = new
        (one,) = accepted(chain, 1)
        assert "no row in the table, as after a loss of its part" in one.error
        recorder = Recorder(new, chain.settings)
        begun = recorder.run(0, dg.DagsterRunStatus.STARTED)
        (one,) = accepted(chain, 0)
        assert one.error == f"run {begun.run_id} of it is running: wait for its end, or terminate it"
        assert [one.progress for one in read_histories(new, chain.settings, ["0", "1"])] == ["missing", "missing"]


def test_a_partition_that_somebody_replaces_is_waited_for(chain: Chain) -> None:
    chain.with_settings(index="none", clickhouse_wait_seconds=0.2)
    holds, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with connect(chain.settings) as db, lease(db, "partition 1"):
            holds.set()
            ended.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert holds.wait(30)
        with pytest.raises(LeaseHeldError, match="partition 1"):
            accepted(chain, 1)
    finally:
        ended.set()
        holder.join()
    assert accepted(chain, 1) == [Accepted(1, 60, "recorded already")]


def test_the_command_prints_each_shard_and_fails_for_those_that_were_refused(
    tmp_path: Path, sample_folder: Path
) -> None:
    workspace = Workspace.made(tmp_path, sample_folder)
    assert workspace.run("load", "0,1").returncode == 0
    with connect(load_settings(dataset_name="sample", data_dir=tmp_path / "data")) as db:
        db.command(f"DELETE FROM {db.table} WHERE shard = 1 AND id % 10 = 3", settings={"lightweight_deletes_sync": 2})
    assert "record it by `laion-assets accept 1`" in workspace.run("status").stdout
    result = workspace.run("accept", "0-2")
    assert result.returncode == 1, result
    for said in (
        "recorded already",
        "fewer than were recorded: accepted",
        "no row in the table, as after a loss",
    ):
        assert said in result.stdout
    result = workspace.run("accept", "1", "--json")
    assert result.returncode == 0, result
    (one,) = json.loads(result.stdout)["shards"]
    assert (one["shard"], one["how"], one["error"]) == (1, "recorded already", "")
    assert "accept 1" not in workspace.run("status").stdout
