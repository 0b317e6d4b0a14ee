"""Tests when index, recall, audits and engine count as behind the loaded shards, and the picture of the shards."""

from __future__ import annotations

import io
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image

from laion_assets.errors import EngineHeldError
from laion_assets.health.facts import Audit, Holder, IndexRecord, LoadFacts, engine_holder, read_facts
from laion_assets.health.history import ShardHistory, read_histories
from laion_assets.health.picture import COLOURS, shards_picture, states_in_words
from laion_assets.health.update import what_to_update
from laion_assets.health.upkeep import (
    cells_follow_loads,
    engine_is_given_back,
    index_follows_loads,
    nothing_is_stale,
    partitions_were_audited,
    recall_is_current,
    recall_is_void,
)
from laion_assets.health.versions import code_version
from laion_assets.recall.figures import Evaluation, KindSummary, Latency, Measurement, Recall, SearchSettings
from laion_assets.settings import Settings, load_settings
from laion_assets.shard_numbers import as_ranges
from laion_assets.table.schema import PartitionState
from laion_assets.words import lasting, shards_of
from laion_assets_tests.automation.recorded import Recorder
from laion_assets_tests.table.loaded import holder, sample_settings

HELD = EngineHeldError("embedded ClickHouse in /x", found="held by process 7")


@pytest.fixture
def hundreds() -> Settings:
    """Settings for 410 shards. The index is built at 10 loaded shards and at every 10 more."""
    return load_settings(dataset_name="laion400m")


def loaded(count: int) -> list[ShardHistory]:
    return [ShardHistory(str(key), "loaded" if key < count else "missing", rows=1) for key in range(410)]


def built(settings: Settings, *covered: int, again: tuple[int, ...] = ()) -> IndexRecord:
    return IndexRecord(100.0, frozenset(covered), frozenset(again), code_version(settings, "vector_index"))


def measured(recall: float, target: float = 0.95) -> Evaluation:
    latency = Latency(1.0, 1.0, 1.0)
    found = Recall(recall, recall, recall, recall, recall, recall, 10)
    one = Measurement("image_to_image", SearchSettings(64), found, None, latency)
    kinds = [KindSummary("image_to_image", "rows", 10, 0, latency, None, one)]
    return Evaluation(1, [0], "graph", "bf16", {}, [], target, 0.0, 0, 0.0, False, 1.0, kinds, [one])


def test_before_the_first_milestone_no_index_is_behind(hundreds: Settings) -> None:
    finding = index_follows_loads(hundreds, loaded(9), HELD, LoadFacts())
    assert finding.passed
    assert finding.seen == "0 of 9 loaded partitions indexed; the next build is at 10 loaded partitions"


def test_an_index_is_behind_at_a_milestone_and_not_between_two(hundreds: Settings) -> None:
    facts = LoadFacts(built(hundreds, *range(10)))
    between = index_follows_loads(hundreds, loaded(17), HELD, facts)
    assert between.passed
    assert between.seen == "10 of 17 loaded partitions indexed; the next build is at 20 loaded partitions"
    behind = index_follows_loads(hundreds, loaded(20), HELD, facts)
    assert behind.passed is False
    assert "the index for the milestone of 20 partitions was not built" in behind.seen
    assert behind.figures == {"indexed": 10, "not_indexed": 10}
    assert index_follows_loads(hundreds, loaded(20), HELD, replace(facts, under_way={"vector_index"})).passed


def test_the_last_partition_is_a_milestone(hundreds: Settings) -> None:
    facts = LoadFacts(built(hundreds, *range(400)))
    assert index_follows_loads(hundreds, loaded(409), HELD, facts).passed
    assert not index_follows_loads(hundreds, loaded(410), HELD, facts).passed


def test_the_last_milestone_of_a_dataset_with_holes_comes_when_all_that_exist_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "holes.toml").write_text(
        'name = "holes"\nshards = "1,3,7-8"\ndimension = 64\n[[sources]]\nurl = "https://files.example/holes"\n'
    )
    settings = load_settings(dataset_name=str(tmp_path / "holes.toml"), index_first=10)
    histories = [ShardHistory(key, "loaded", rows=1) for key in ("1", "3", "7")] + [ShardHistory("8", "missing")]
    assert index_follows_loads(settings, histories, HELD, LoadFacts()).passed
    histories[3] = ShardHistory("8", "loaded", rows=1)
    behind = index_follows_loads(settings, histories, HELD, LoadFacts())
    assert behind.passed is False
    assert "the index for the milestone of 4 partitions was not built" in behind.seen


def test_partitions_that_were_loaded_again_or_lost_their_index_are_named(hundreds: Settings) -> None:
    again = index_follows_loads(hundreds, loaded(10), HELD, LoadFacts(built(hundreds, *range(10), again=(3, 4))))
    assert again.passed is False
    assert "loaded again since the build: 3-4" in again.seen
    table = [PartitionState(key, 1, 1, 10, 0 if key == 6 else 5) for key in range(10)]
    lost = index_follows_loads(hundreds, loaded(10), table, LoadFacts(built(hundreds, *range(10))))
    assert lost.passed is False
    assert "without the index that was built: 6" in lost.seen


def test_a_partition_that_came_with_its_graphs_when_it_was_loaded_again_is_indexed(hundreds: Settings) -> None:
    facts = LoadFacts(built(hundreds, *range(10), again=(3, 4)))
    table = [PartitionState(key, 1, 1, 10, 0 if key == 4 else 5) for key in range(10)]
    finding = index_follows_loads(hundreds, loaded(10), table, facts)
    assert finding.passed is False
    assert "loaded again since the build: 4." in finding.seen
    assert finding.figures == {"indexed": 9, "not_indexed": 1}


def test_graphs_that_still_have_deleted_rows_are_named(hundreds: Settings) -> None:
    table = [PartitionState(key, 1, 1, 10, index_bytes=5, deleted_rows=key in (2, 3)) for key in range(10)]
    finding = index_follows_loads(hundreds, loaded(10), table, LoadFacts(built(hundreds, *range(10))))
    assert finding.passed is False
    said = "; 2 partitions with deleted or updated rows, which the graphs still have. `laion-assets bring-up-"
    assert said in finding.seen


def test_recall_is_void_when_cells_are_newer_where_they_alone_are_built() -> None:
    cells = IndexRecord(100.0, frozenset({0}), frozenset(), "")
    assert recall_is_void(LoadFacts(cells=cells)) == "the cells were never measured"
    facts = LoadFacts(cells=cells, recall_at=90.0, evaluations=[measured(0.99)])
    said = "the cells were built again after recall was measured: recall figures are out of date"
    assert recall_is_void(facts) == said
    assert recall_is_void(replace(facts, recall_at=110.0)) == ""
    assert not recall_is_current(facts).passed


def test_an_index_of_other_parameters_is_behind(hundreds: Settings) -> None:
    facts = LoadFacts(built(hundreds, *range(10)))
    other = hundreds.model_copy(update={"hnsw_m": 8})
    finding = index_follows_loads(other, loaded(10), HELD, facts)
    assert finding.passed is False
    assert "M 64" in finding.seen
    assert "M 8" in finding.seen


def test_cells_are_judged_as_graphs_are_where_they_are_asked_for(hundreds: Settings) -> None:
    assert cells_follow_loads(hundreds, loaded(20), LoadFacts()).seen == "LAION_INDEX asks for no cells"
    both = hundreds.model_copy(update={"index": "both"})
    made = IndexRecord(100.0, frozenset(range(10)), frozenset(), code_version(both, "vector_cells"))
    assert cells_follow_loads(both, loaded(17), LoadFacts(cells=made)).passed
    behind = cells_follow_loads(both, loaded(20), LoadFacts(cells=made))
    assert behind.passed is False
    assert "the index for the milestone of 20 partitions was not built" in behind.seen
    assert cells_follow_loads(both, loaded(20), LoadFacts(cells=made, under_way={"vector_cells"})).passed
    again = cells_follow_loads(both, loaded(10), LoadFacts(cells=replace(made, loaded_again=frozenset({3}))))
    assert "loaded again since the build: 3" in again.seen
    other = cells_follow_loads(both, loaded(10), LoadFacts(cells=replace(made, code="1; another code")))
    assert other.passed is False


@pytest.mark.parametrize(
    ("index", "asked"), [("hnsw", (True, False)), ("cells", (False, True)), ("both", (True, True))]
)
def test_what_is_brought_up_to_date_is_what_the_setting_builds(
    hundreds: Settings, index: str, asked: tuple[bool, bool]
) -> None:
    settings = hundreds.model_copy(update={"index": index})
    update = what_to_update(settings, loaded(2), LoadFacts(), shards=set())
    assert (update.index, update.cells) == asked
    assert update.recall
    cells = IndexRecord(100.0, frozenset({0, 1}), frozenset(), code_version(settings, "vector_cells"))
    assert not what_to_update(settings, loaded(2), LoadFacts(cells=cells), shards=set()).cells


def test_recall_is_void_when_the_index_is_newer_and_bad_below_its_target(hundreds: Settings) -> None:
    facts = LoadFacts(built(hundreds, 0), recall_at=200.0, evaluations=[measured(0.97)])
    assert recall_is_current(LoadFacts()).passed, "without an index nothing is to be measured"
    assert recall_is_current(facts).passed
    older = recall_is_current(replace(facts, recall_at=50.0))
    assert older.passed is False
    assert "the index was built again after recall was measured" in older.seen
    again = recall_is_current(replace(facts, index=built(hundreds, 0, again=(0,))))
    assert again.passed is False
    low = recall_is_current(replace(facts, evaluations=[measured(0.91)]))
    assert low.passed is False
    assert low.seen == "image to image reaches 0.910 at least, the target is 0.95"
    assert low.figures == {"recall_at_10_image_to_image": 0.91}
    assert recall_is_current(replace(facts, recall_at=None, evaluations=())).passed is False


def test_an_audit_is_overdue_failed_or_was_never_made() -> None:
    histories = loaded(3)
    now = time.time()
    assert partitions_were_audited(histories, Audit(oldest_at=now - 86400, oldest="1"), 60).passed
    old = partitions_were_audited(histories, Audit(oldest_at=now - 70 * 86400, oldest="1"), 60)
    assert old.passed is False
    assert "partition 1 was last checked 70.0 days ago, 60 days are allowed" in old.seen
    failed = partitions_were_audited(histories, Audit(failed=frozenset({"2", "0"}), oldest_at=now, oldest="1"), 60)
    assert "the last check failed of 2 partitions: 0, 2" in failed.seen
    assert "never checked: 1-2" in partitions_were_audited(histories, Audit(never=frozenset({"1", "2"})), 60).seen
    loading = [replace(history, last_run="running") for history in histories]
    assert partitions_were_audited(loading, Audit(never=frozenset({"1", "2"})), 60).passed


def test_stale_shards_are_named_with_the_reason_and_what_to_do() -> None:
    histories = loaded(3)
    assert nothing_is_stale(histories).passed
    histories[1].stale["raw_shard"] = "its source has other files"
    finding = nothing_is_stale(histories)
    assert finding.passed is False
    assert finding.seen.startswith("1 shard stale: shard 1: its source has other files. `laion-assets bring-up")
    histories[1].last_run = "running"
    assert nothing_is_stale(histories).passed, "it is being made again"


def test_who_holds_the_engine_is_told_with_command_and_time(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    assert engine_holder(settings) is None
    with holder(settings.data_dir) as process:
        held = engine_holder(settings)
    assert held is not None
    assert held.process == process.pid != os.getpid()
    assert "python" in held.command
    assert held.since == pytest.approx(time.time(), abs=60)
    finding = engine_is_given_back(held, 6)
    assert finding.passed
    assert finding.seen.endswith("less than a minute")
    long = engine_is_given_back(Holder(7, "dagster", time.time() - 7 * 3600), 6)
    assert long.passed is False
    assert "held by process 7 (dagster) since " in long.seen
    assert long.seen.endswith("7.0 hours")


def test_what_was_asked_for_is_what_runs_or_failed_and_no_canceled_shard(settings: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        recorder = Recorder(instance, settings)
        recorder.load(0)
        recorder.fail(1)
        recorder.run(2, dg.DagsterRunStatus.QUEUED)
        instance.report_run_canceled(recorder.run(3, dg.DagsterRunStatus.STARTED))
        facts = read_facts(instance, settings, read_histories(instance, settings))
    assert facts.asked_for == {"1", "2"}
    assert facts.audit.never == {"0"}


def test_the_picture_has_a_cell_a_shard_in_its_state_s_colour() -> None:
    histories = loaded(400)
    histories[7].last_run = "failed"
    histories[9].stale["raw_shard"] = "its source has other files"
    picture = shards_picture(histories)
    assert picture is not None
    assert len(picture) < 20_000
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    cells = Counter(
        "#{:02x}{:02x}{:02x}".format(*image.getpixel((54 + column * 23, 13 + row * 23)))  # type: ignore[misc]
        for row in range(10)
        for column in range(41)
    )
    assert cells == {COLOURS["loaded"]: 398, COLOURS["missing"]: 10, COLOURS["failed"]: 1, COLOURS["stale"]: 1}
    assert states_in_words(histories) == "410 shards: 398 loaded, 1 stale, 1 failed, 10 missing"
    assert shards_picture(loaded(0) * 20) is None, "of 8,200 nobody sees one"


@pytest.mark.parametrize(
    ("shards", "text"), [([], ""), ([3], "3"), ([0, 1], "0-1"), ([9, 0, 1, 2, 12, 14, 15], "0-2, 9, 12, 14-15")]
)
def test_shards_are_told_as_ranges_and_read_again(shards: list[int], text: str) -> None:
    assert as_ranges(shards) == text
    assert shards_of(text) == set(shards)


def test_times_are_told_in_the_unit_that_suits_them() -> None:
    assert [lasting(seconds) for seconds in (0, 59, 60, 600, 7200, 86400 * 3)] == [
        "less than a minute",
        "less than a minute",
        "1 minute",
        "10 minutes",
        "2.0 hours",
        "3.0 days",
    ]
