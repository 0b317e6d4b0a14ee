"""Tests of a plan: bytes, time, memory, and disk for each choice of files to keep; for any shards, on any hosts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from laion_assets.plan.bandwidth import Bandwidth, given_bandwidth
from laion_assets.plan.kept_plan import ActualFigures, compare, keep_plan, read_plan
from laion_assets.plan.load_plan import LoadPlan
from laion_assets.plan.make_plan import make_plan
from laion_assets.plan.model import Model
from laion_assets.plan.sizes import ShardSize, shard_sizes
from laion_assets.settings import Settings, load_settings
from laion_assets.table.schema import PartitionState
from laion_assets_tests.plan.made_up import GB, calibration, shard_cost

LINKED = Bandwidth(0.0, "linked")
HUNDRED = given_bandwidth(100)
ROWS = 100_000


def sizes(*rows: int) -> list[ShardSize]:
    """Returns shards from number 0 with these numbers of rows and 2,100 bytes per row."""
    return [ShardSize(shard, count, 2_100 * count, "known") for shard, count in enumerate(rows)]


def planned(
    settings: Settings,
    shards: list[ShardSize],
    loaded: list[PartitionState] | None = None,
    bandwidth: Bandwidth = HUNDRED,
    free: int = 10**15,
    hosts: int = 1,
) -> LoadPlan:
    """Returns a plan made with the made-up calibration."""
    model = Model(calibration(settings), settings)
    return make_plan(model, shards, loaded or [], bandwidth, free_bytes=free, hosts=hosts)


def test_fetching_takes_the_bytes_over_the_bandwidth(settings: Settings) -> None:
    plan = planned(settings, sizes(ROWS, ROWS))
    assert plan.fetch_bytes == 2 * 2_100 * ROWS
    assert plan.stages["fetch"].seconds == pytest.approx(2 * (11 + 2.1))
    assert planned(settings, sizes(ROWS), bandwidth=LINKED).stages["fetch"].seconds == pytest.approx(11)


def test_all_of_a_load_is_planned_stage_by_stage(settings: Settings) -> None:
    plan = planned(settings, sizes(ROWS, 2 * ROWS))
    assert list(plan.stages) == ["fetch", "merge", "load", "checks", "index", "recall"]
    assert plan.stages["merge"].seconds == pytest.approx(11 + 21)
    assert plan.stages["load"].core_seconds == pytest.approx(11 + 21)
    assert plan.seconds == pytest.approx(sum(stage.seconds for stage in plan.stages.values()))
    assert plan.rows == 3 * ROWS


def test_disk_at_rest_is_what_the_settings_keep(settings: Settings) -> None:
    plan = planned(settings, sizes(ROWS, ROWS))
    index = sum(shard.index_bytes for shard in plan.shards)
    rest = {(disk.keep_raw, disk.keep_merged): disk.rest_bytes - index for disk in plan.disks}
    assert rest == {
        (True, True): 2 * ROWS * (2_100 + 2_000 + 4_000),
        (True, False): 2 * ROWS * (2_100 + 4_000),
        (False, True): 2 * ROWS * (2_000 + 4_000),
        (False, False): 2 * ROWS * 4_000,
    }
    assert [(disk.keep_raw, disk.keep_merged) for disk in plan.disks if disk.chosen] == [(False, True)]


def test_disk_at_the_peak_has_the_shard_that_is_loaded_twice_or_the_indexes(settings: Settings) -> None:
    one = planned(settings, sizes(ROWS))
    peak = {(disk.keep_raw, disk.keep_merged): disk.peak_bytes for disk in one.disks}
    assert peak[False, True] == ROWS * (2_000 + 2 * 4_000)
    assert peak[True, True] == ROWS * (2_100 + 2_000 + 2 * 4_000)
    assert peak[False, False] == ROWS * (2_000 + 2 * 4_000)
    many = planned(settings, sizes(*[ROWS] * 10))
    assert all(disk.peak_bytes >= disk.rest_bytes for disk in many.disks)
    chosen = next(disk for disk in many.disks if disk.chosen)
    assert chosen.peak_bytes == chosen.rest_bytes, "ten indexes are more than one staging table"


def test_raw_files_that_are_linked_take_no_disk(settings: Settings) -> None:
    kept = {disk.keep_raw: disk for disk in planned(settings, sizes(ROWS), bandwidth=LINKED).disks if disk.keep_merged}
    assert kept[True].rest_bytes == kept[False].rest_bytes


def test_files_that_are_kept_in_a_bucket_take_no_disk_at_rest(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, store="s3://bucket/x")
    local = load_settings(dataset_name="sample", data_dir=tmp_path)
    there = {(disk.keep_raw, disk.keep_merged): disk for disk in planned(settings, sizes(*[ROWS] * 3)).disks}
    here = {(disk.keep_raw, disk.keep_merged): disk for disk in planned(local, sizes(*[ROWS] * 3)).disks}
    assert len({disk.rest_bytes for disk in there.values()}) == 1
    assert there[True, True].rest_bytes == here[False, False].rest_bytes
    assert there[True, True].bucket_bytes == 3 * ROWS * (2_100 + 2_000)
    assert there[False, True].bucket_bytes == 3 * ROWS * 2_000
    assert here[True, True].bucket_bytes == there[False, False].bucket_bytes == 0


def test_a_plan_says_how_far_it_may_be_off(settings: Settings) -> None:
    measured = calibration(settings)
    third = shard_cost(30_000, GB)
    seconds = {name: value * 2 for name, value in third.seconds.items()}
    off = replace(measured, shards=[measured.shards[0], replace(third, seconds=seconds), measured.shards[1]])
    on = replace(measured, shards=[measured.shards[0], third, measured.shards[1]])
    plans = [
        make_plan(Model(made, settings), sizes(ROWS), [], LINKED, free_bytes=10**15) for made in (on, off, measured)
    ]
    assert [plan.stages["load"].above for plan in plans] == pytest.approx([0.2, 0.5, 0.25])
    sure, unsure, _ = (plan.range_seconds for plan in plans)
    assert sure[0] < plans[0].seconds < sure[1] < unsure[1]
    assert json.loads(json.dumps(plans[0].as_json()))["range_seconds"] == pytest.approx(list(sure))
    larger = make_plan(Model(on, settings), sizes(1_000_000), [], LINKED, free_bytes=10**15)
    assert larger.stages["load"].above > 0.2
    assert larger.stages["index"].below > 0.8, "a million vectors of CLIP took a quarter of what the sample's would"


def test_hosts_share_the_shards_and_the_one_with_most_to_do_decides(settings: Settings) -> None:
    one, three = (planned(settings, sizes(*[ROWS] * 7), hosts=hosts) for hosts in (1, 3))
    assert three.stages["load"].seconds == pytest.approx(one.stages["load"].seconds * 3 / 7)
    assert three.stages["load"].core_seconds == pytest.approx(one.stages["load"].core_seconds)
    assert three.memory.graphs_bytes == pytest.approx(one.memory.graphs_bytes * 3 / 7, rel=1e-6)
    assert [choice.memory_bytes for choice in three.choices] == [choice.memory_bytes for choice in one.choices]


def test_what_is_loaded_counts_for_searching_and_where_it_lacks_its_index_for_building(settings: Settings) -> None:
    bare = PartitionState(8, ROWS, 1, 1, index_bytes=0)
    indexed = PartitionState(9, ROWS, 1, 1, index_bytes=5)
    alone, more = planned(settings, sizes(ROWS)), planned(settings, sizes(ROWS), [bare, indexed])
    assert more.stages["index"].seconds == pytest.approx(2 * alone.stages["index"].seconds)
    assert more.memory.graphs_bytes == pytest.approx(3 * alone.memory.graphs_bytes, rel=1e-6)
    assert more.index_rows == 2 * ROWS
    assert more.disks == alone.disks, "disk is what the load adds"


def test_a_disk_that_is_too_small_is_said(settings: Settings) -> None:
    (warning,) = planned(settings, sizes(ROWS), free=GB // 2).warnings
    assert warning.startswith("Not enough disk: the load needs 1.0 GB at its peak, 500 MB are free")


def test_graphs_that_outgrow_the_machine_are_said_and_smaller_ones_are_shown(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    plan = planned(settings, shard_sizes(settings, list(range(410))))
    assert plan.memory.graphs_bytes == pytest.approx(1.27e12, rel=0.01)
    assert any("search by the index: its graphs take 1.3 TB a host, the" in warning for warning in plan.warnings)
    memory = {choice.parameters: choice.memory_bytes / 1e9 for choice in plan.choices}
    assert memory["i8, M 16, ef_construction 64"] == pytest.approx(538, rel=0.01)
    assert memory["b1, M 16, ef_construction 64"] == pytest.approx(174, rel=0.01)


def test_what_is_not_known_is_said(settings: Settings) -> None:
    guessed = [ShardSize(0, ROWS, 2_100 * ROWS, "estimated")]
    warnings = planned(settings, guessed, bandwidth=Bandwidth(None, "not known: no answer")).warnings
    assert any("sizes of 1 shards are estimated" in warning for warning in warnings)
    assert any("time to fetch is left out" in warning for warning in warnings)


def test_nothing_to_load_is_a_plan_too(settings: Settings) -> None:
    plan = planned(settings, [], [PartitionState(0, ROWS, 1, 1, index_bytes=5)])
    assert plan.rows == plan.fetch_bytes == 0
    assert plan.stages["load"].seconds == plan.stages["index"].seconds == 0


def test_a_plan_is_kept_and_read_as_it_was(settings: Settings, tmp_path: Path) -> None:
    plan = planned(settings, sizes(ROWS, 500), hosts=2)
    keep_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    (tmp_path / "plan.json").write_text('{"shards": [1]}')
    assert read_plan(tmp_path / "plan.json") is None


def test_a_plan_is_held_against_what_was_done_of_it(settings: Settings) -> None:
    plan = planned(settings, sizes(ROWS, ROWS, ROWS), bandwidth=LINKED)
    seconds = {"fetch": 22.0, "merge": 11.0, "load": 44.0, "checks": 22.0, "index": plan.stages["index"].seconds}
    cores = {"steps": 2 * 3 * 22.0, "index": 0.0}
    happened = ActualFigures(
        [0, 2], seconds, cores, 2 * 2_100 * ROWS, 2 * ROWS * 6_000, ROWS, {"load": 4 * GB, "index": 0}
    )
    found = {one.name: one for one in compare(plan, happened, keep_raw=False, keep_merged=True)}
    assert found["merge"].error == pytest.approx(1.0), "twice as long was planned"
    assert found["load"].error == pytest.approx(-0.5)
    assert found["fetch"].error == pytest.approx(0)
    assert found["index"].planned == pytest.approx(plan.stages["index"].seconds / 3), "one of three was indexed"
    assert found["bytes of the source"].error == 0
    one_index = plan.shards[0].index_bytes
    assert found["disk"].planned == pytest.approx(2 * ROWS * 6_000 + one_index, rel=1e-6)
    assert found["memory to load"].error == pytest.approx(plan.memory.load_bytes / (4 * GB) - 1)
    assert found["core seconds of fetch, merge and load"].error == pytest.approx(-0.5)
    assert "core seconds of index" not in found
    assert "recall" not in found
    assert "memory to index" not in found


def test_before_the_first_shard_there_is_nothing_to_compare(settings: Settings) -> None:
    plan = planned(settings, sizes(ROWS))
    assert compare(plan, ActualFigures([], {}, {}, 0, 0, 0, {}), keep_raw=False, keep_merged=True) == []


def test_the_index_of_a_plan_is_the_one_that_is_asked_for(settings: Settings) -> None:
    plans = {
        kind: planned(settings.model_copy(update={"index": kind}), sizes(*[10 * ROWS] * 10))
        for kind in ("hnsw", "cells", "both", "none")
    }
    stage = {kind: plan.stages["index"].core_seconds for kind, plan in plans.items()}
    disk = {kind: sum(shard.index_bytes for shard in plan.shards) for kind, plan in plans.items()}
    assert stage["none"] == disk["none"] == plans["none"].index_rows == plans["none"].memory.graphs_bytes == 0
    assert 0 < stage["cells"] < stage["hnsw"]
    assert 0 < disk["cells"] != disk["hnsw"] > 0
    assert stage["both"] == pytest.approx(stage["hnsw"] + stage["cells"])
    assert disk["both"] == pytest.approx(disk["hnsw"] + disk["cells"], abs=10)
    assert plans["cells"].memory.graphs_bytes == plans["cells"].memory.cache_bytes == 0
    assert plans["both"].memory == plans["hnsw"].memory
    assert [kind for kind, plan in plans.items() if any("codes take" in each for each in plan.warnings)] == [
        "cells",
        "both",
    ]
    assert not any("LAION_INDEX_CACHE_BYTES" in each for each in plans["cells"].warnings)
    assert plans["none"].search_seconds == plans["none"].exact_seconds
