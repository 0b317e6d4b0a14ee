"""Tests health findings: failed shards, differences between table and Dagster by shard, stalled loads, disk space."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from laion_assets.errors import EngineHeldError
from laion_assets.health.disk import DiskNeeds, bytes_still_needed, disk_space_suffices, free_bytes_of
from laion_assets.health.facts import LoadFacts
from laion_assets.health.findings import ingest_is_moving, judge, no_shards_left_failed, table_agrees_with_dagster
from laion_assets.health.history import ShardHistory, ShardState
from laion_assets.index.parameters import IndexParameters
from laion_assets.settings import Settings, load_settings
from laion_assets.table.schema import PartitionState


def shard(
    key: int, state: ShardState = "loaded", *, rows: int = 100, hours_ago: float = 1, error: str = ""
) -> ShardHistory:
    """A shard's history. Only a loaded shard has rows and a load time."""
    if state == "running" or state == "queued" or state == "failed":  # noqa: PLR1714 - mypy reads no tuple
        return ShardHistory(str(key), last_run=state, error=error)
    if state != "loaded":
        return ShardHistory(str(key), state)
    return ShardHistory(str(key), state, rows=rows, loaded_at=time.time() - hours_ago * 3600)


def partition(key: int, rows: int = 100) -> PartitionState:
    return PartitionState(key, rows, parts=1, bytes_on_disk=1, index_bytes=0)


def test_failed_shards_are_named_with_their_errors() -> None:
    assert no_shards_left_failed([shard(0), shard(1, "running")]).passed
    finding = no_shards_left_failed([shard(0), shard(7, "failed", error="no space left")])
    assert not finding.passed
    assert finding.seen == "1 shard failed: shard 7: no space left"
    ours = "shard 7, img_emb_7.npy: found 3 bytes"
    assert no_shards_left_failed([shard(7, "failed", error=ours)]).seen == f"1 shard failed: {ours}"


def test_of_many_failed_shards_the_first_are_named_and_all_are_counted() -> None:
    seen = no_shards_left_failed([shard(key, "failed", error="e") for key in range(400)]).seen
    assert seen.startswith("400 shards failed: shard 0: e; ")
    assert len(seen) < 200


def test_a_table_that_is_as_dagster_has_it_agrees() -> None:
    finding = table_agrees_with_dagster([shard(0), shard(1), shard(2, "missing")], [partition(0), partition(1)])
    assert finding.passed
    assert finding.seen == "2 partitions agree"
    assert table_agrees_with_dagster([shard(0, rows=0)], []).passed, "a shard without rows is no partition"


@pytest.mark.parametrize(
    ("histories", "partitions", "seen"),
    [
        ([shard(5)], [], "shard 5: 0 rows in the table, 100 by Dagster"),
        ([shard(5, "missing")], [partition(5)], "shard 5: 100 rows in the table, 0 by Dagster"),
        ([shard(5)], [partition(5, rows=110)], "shard 5: 110 rows in the table, 100 by Dagster"),
        ([shard(0)], [partition(0), partition(77)], "shard 77: in the table, unknown to the dataset"),
    ],
    ids=["dropped from the table", "never loaded by Dagster", "other rows", "of another dataset"],
)
def test_drift_either_way_is_named_by_shard(
    histories: list[ShardHistory], partitions: list[PartitionState], seen: str
) -> None:
    finding = table_agrees_with_dagster(histories, partitions)
    assert not finding.passed
    assert finding.seen == seen


def test_shards_that_run_are_no_drift_and_failed_ones_are_looked_at() -> None:
    running = [shard(0, "running"), shard(1, "queued")]
    assert table_agrees_with_dagster(running, [partition(0, rows=5)]).passed
    failed_again = ShardHistory("2", "loaded", "failed", rows=100, loaded_at=time.time())
    assert table_agrees_with_dagster([failed_again], [partition(2)]).passed, "its old rows stand, as Dagster has it"
    assert not table_agrees_with_dagster([failed_again], []).passed


def test_a_table_that_is_held_is_neither_well_nor_bad() -> None:
    held = EngineHeldError("embedded ClickHouse in /x", found="held by process 7")
    finding = table_agrees_with_dagster([shard(0)], held)
    assert finding.passed is None
    assert finding.seen == "the table was not read: embedded ClickHouse in /x: held by process 7"


def test_of_much_drift_the_first_shards_are_named_and_the_others_counted() -> None:
    seen = table_agrees_with_dagster([shard(key) for key in range(25)], []).seen
    assert seen.count("shard ") == 5
    assert seen.endswith("; and 20 more")


def test_a_load_that_stands_still_is_told_from_one_that_moves_ended_or_never_began() -> None:
    waiting, asked = shard(1, "missing"), {"0", "1", "2"}
    assert ingest_is_moving([shard(0, hours_ago=5), waiting], asked, 6).passed
    stalled = ingest_is_moving([shard(0, hours_ago=30), shard(2, hours_ago=7), waiting], asked, 6)
    assert not stalled.passed
    assert stalled.seen == "1 shard asked for and not loaded; the last was loaded 7.0 hours ago"
    assert ingest_is_moving([shard(0, hours_ago=1000)], asked, 6).passed, "nothing is missing"
    assert ingest_is_moving([waiting], asked, 6).passed, "it was never begun"
    assert not ingest_is_moving([shard(0, hours_ago=9), shard(1, "failed")], asked, 6).passed


def test_a_load_that_never_loaded_anything_stalls_too() -> None:
    waiting, asked, now = shard(1, "missing"), {"1"}, time.time()
    waiting.last_run = "queued"
    for planned_at, asked_at, passed in (
        (None, now - 5 * 3600, True),
        (None, now - 72 * 3600, False),
        (now - 72 * 3600, now, False),
    ):
        waiting.asked_at = asked_at
        found = ingest_is_moving([waiting], asked, 6, planned_at)
        assert found.passed == passed
    assert found.seen == "1 shard asked for and not loaded; none was loaded yet; the first was asked for 3.0 days ago"


def test_shards_that_nobody_asked_for_have_not_stalled() -> None:
    histories = [shard(0, hours_ago=1000), shard(1, "missing"), shard(2, "missing")]
    finding = ingest_is_moving(histories, {"0"}, 6)
    assert finding.passed
    assert finding.seen == "2 shards of 3 not loaded, and not asked for"


def test_disk_space_is_held_against_what_the_rest_needs(settings: Settings) -> None:
    rest = [shard(0, rows=1_000_000), shard(1, "missing"), shard(2, "failed")]
    needed = bytes_still_needed(settings, rest)
    assert needed is not None
    # Two shards of a million rows: 1.85 + 4.19 + 3.1 kB a row, and both shards' raw files of 2.2 kB a row.
    assert needed.store == pytest.approx(2e6 * (1_850 + 4_190 + 3_114 + 2_203), rel=0.02)
    assert disk_space_suffices(settings, rest, needed.store + 1).passed
    finding = disk_space_suffices(settings, rest, needed.store - 1)
    assert not finding.passed
    assert finding.seen == "23 GB free, about 23 GB needed for the rest"
    assert bytes_still_needed(settings, [shard(0)]) == DiskNeeds(0, 0)


def test_before_a_shard_is_loaded_what_a_dataset_of_one_s_own_needs_cannot_be_told(settings: Settings) -> None:
    finding = disk_space_suffices(settings, [shard(0, "running"), shard(1, "missing")], 5 * 10**9)
    assert finding.passed is None
    assert finding.seen == "5 GB free; the disk space that the load needs is known when a shard is loaded"
    known = load_settings(dataset_name="laion400m", data_dir=settings.data_dir)
    assert disk_space_suffices(known, [shard(0, "missing")], 10**9).passed is False


def test_what_the_rest_needs_follows_the_settings(settings: Settings, tmp_path: Path) -> None:
    def needed(**fields: object) -> int:
        rest = [shard(0, rows=1000), *(shard(key, "missing") for key in range(1, 5))]
        found = bytes_still_needed(load_settings(dataset_name="sample", data_dir=tmp_path, **fields), rest)
        assert found is not None
        return found.store

    small = {"hnsw_quantization": "b1", "hnsw_m": 16}
    assert needed() - needed(**small) == pytest.approx(4 * 1000 * 2 * (1_557 - 213), rel=0.01)
    assert needed(keep_merged=False) < needed() < needed(keep_raw=True)
    assert needed(clickhouse="http://host:8123/") < needed() / 2, "a server's table is not on this disk"


def test_what_the_rest_needs_is_learnt_from_what_is_loaded(settings: Settings) -> None:
    rest = [replace(shard(0, rows=1000), raw_bytes=4_000_000), shard(1, "missing")]
    table = [PartitionState(0, 1000, 1, bytes_on_disk=3_000_000, index_bytes=1_000_000)]
    known, learnt = bytes_still_needed(settings, rest), bytes_still_needed(settings, rest, table)
    assert known is not None
    assert learnt is not None
    assert learnt.table == 1000 * (2_000 + 2 * IndexParameters.of(settings).bytes_a_vector(512))
    assert learnt.store - learnt.table == pytest.approx(1000 * (1_850 + 4_000), rel=0.01)
    assert learnt.table < known.table


def test_the_disk_of_an_engine_elsewhere_is_looked_at_too(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"clickhouse": SecretStr("chdb:///proc/engine")})
    elsewhere.__dict__.pop("clickhouse_url", None)
    rest = [shard(0, rows=1000), shard(1, "missing")]
    finding = disk_space_suffices(elsewhere, rest, 10**12)
    assert not finding.passed, "no byte is free in /proc"
    assert "0 GB free in /proc/engine" in finding.seen


def test_the_space_of_a_store_that_is_not_made_yet_is_its_disk_s(tmp_path: Path) -> None:
    assert free_bytes_of(tmp_path / "not" / "yet") == pytest.approx(free_bytes_of(tmp_path), rel=0.05)


def test_judgements_come_in_the_order_in_which_a_person_asks(settings: Settings) -> None:
    findings = judge(settings, [shard(0), shard(1)], [partition(0), partition(1)], 1, LoadFacts())
    assert [finding.check for finding in findings] == [
        "no_shards_left_failed",
        "table_agrees_with_dagster",
        "ingest_is_moving",
        "nothing_is_stale",
        "index_follows_loads",
        "cells_follow_loads",
        "recall_is_current",
        "partitions_were_audited",
        "engine_is_given_back",
        "disk_space_suffices",
    ]
    assert all(finding.passed for finding in findings)
