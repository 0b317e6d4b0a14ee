"""Tests of measuring a calibration and of showing a plan."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from laion_assets.errors import CalibrationError, DatasetError
from laion_assets.plan.bandwidth import given_bandwidth
from laion_assets.plan.calibration import SHARD_STAGES, calibration_path, keep_calibration, read_calibration
from laion_assets.plan.kept_plan import plan_path
from laion_assets.plan.load_plan import LoadPlan
from laion_assets.plan.make_plan import make_plan
from laion_assets.plan.model import Model
from laion_assets.plan.sizes import shard_sizes
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.settings import Settings, load_settings
from laion_assets.table.schema import PartitionState
from laion_assets.terminal.calibrate import Sizes, calibrate
from laion_assets.terminal.plan import keep_plan_for, methods_of, plan_load, print_methods, print_plan
from laion_assets.words import between, duration, size, two_digits
from laion_assets_tests.conftest import assert_one_line
from laion_assets_tests.plan.made_up import calibration

SMALL = Sizes(
    small=300, middle=700, large=1_500, index=400, report=RecallPlan(2, queries_at_100=2, grid=DEFAULT_GRID[:3])
)


def shown(settings: Settings, shards: list[int], width: int = 100) -> str:
    """Returns what the command shows with the made-up calibration."""
    keep_calibration(calibration(settings), calibration_path(settings))
    out = io.StringIO()
    console = Console(file=out, width=width)
    print_plan(plan_load(settings, shards, console, megabytes_per_second=100), console)
    return out.getvalue()


def test_a_calibration_runs_the_real_job_and_leaves_nothing_else(tmp_path: Path) -> None:
    few = {"hnsw_m": 8, "hnsw_ef_construction": 32, "recall_queries": 5}
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, **few)
    before = Path.cwd()
    made = calibrate(settings, SMALL)
    assert made.is_of(settings)
    assert read_calibration(calibration_path(settings)) == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [".calibration.lock", "plan"]
    assert Path.cwd() == before
    small, middle, large = made.shards
    assert (small.rows, middle.rows, large.rows) == (300, 700, 1_500)
    assert 3 < large.table_bytes / small.table_bytes < 7
    for cost in made.shards:
        assert set(cost.seconds) == set(cost.core_seconds) == set(SHARD_STAGES)
        assert all(cost.seconds[stage] > 0 for stage in SHARD_STAGES)
        assert cost.peak_bytes["load"] > 100e6, "the engine itself is in it"
    assert {(index.rows, index.parts) for index in made.indexes} >= {(100, 4), (400, 1)}
    assert all(index.core_seconds > 0 and index.memory_bytes_a_vector > 1_024 for index in made.indexes)
    assert all(search.search > 0 and search.report_search > 0 for search in made.searches)


def test_a_calibration_that_cannot_load_says_why(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="sample", data_dir=tmp_path, vector_codec="NoCodec")
    with pytest.raises(CalibrationError) as caught:
        calibrate(settings, SMALL)
    assert_one_line(caught.value, "NoCodec", "GB of disk")


def test_a_plan_of_all_of_laion_is_shown_in_plain_words(tmp_path: Path) -> None:
    page = shown(load_settings(dataset_name="laion400m", data_dir=tmp_path), list(range(410)))
    for said in (
        "410 shards of laion400m, 407,314,954 rows",
        "to fetch: 900 GB",
        "100 MB/s as given",
        "build both indexes",
        "measure recall",
        "as set",
        "1.3 TB",
        "i8, M 16, ef_construction 64",
        "Not enough memory to search by the index",
    ):
        assert said in page
    assert "Traceback" not in page


def of_laion(settings: Settings, shards: list[int], loaded: int = 0, hosts: int = 1) -> LoadPlan:
    """Returns the plan for these shards of LAION-400M, beside its first `loaded` ones."""
    states = [PartitionState(shard, 993_450, 1, 1, index_bytes=5) for shard in range(loaded)]
    model = Model(calibration(settings), settings)
    return make_plan(model, shard_sizes(settings, shards), states, given_bandwidth(100), free_bytes=10**15, hosts=hosts)


def test_the_method_is_named_for_the_table_as_it_will_be_and_not_for_the_shards_that_are_missing(
    tmp_path: Path,
) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    last = of_laion(settings, [409], loaded=409)
    graphs = {one.name: one.memory_bytes for one in methods_of(settings, last).costs}["graph"]
    assert graphs == pytest.approx(last.memory.graphs_bytes, rel=0.01), "both tables of the page say the same"
    assert graphs == pytest.approx(1.27e12, rel=0.01)
    out = io.StringIO()
    print_methods(settings, last, Console(file=out, width=200))
    assert f"all {last.table_rows:,} rows after this load" in out.getvalue()
    assert "for this machine: cells" in out.getvalue()


def test_the_method_is_named_for_the_rows_of_one_host(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    plan = of_laion(settings, list(range(410)), hosts=205)
    assert plan.table_parts == 2
    graphs = {one.name: one.memory_bytes for one in methods_of(settings, plan).costs}["graph"]
    assert graphs == pytest.approx(plan.memory.graphs_bytes, rel=0.01)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    settings = load_settings(dataset_name="laion400m", data_dir=tmp_path)
    assert max(map(len, shown(settings, [0, 8], width).splitlines())) <= width


def test_a_load_keeps_its_plan_without_waiting_for_a_calibration(settings: Settings) -> None:
    plan = keep_plan_for(settings, [0, 1], [])
    assert not plan.calibrated_here
    assert plan_path(settings).exists()
    assert any("laion-assets plan measures them here" in warning for warning in plan.warnings)
    keep_calibration(calibration(settings), calibration_path(settings))
    assert keep_plan_for(settings, [0, 1], []).calibrated_here


def test_shards_that_are_none_are_refused(settings: Settings) -> None:
    with pytest.raises(DatasetError):
        settings.dataset.shard_numbers("0-4")


def test_sizes_and_durations_have_a_unit_that_suits_them() -> None:
    assert [size(count) for count in (900, 2.5e6, 41e9, 1.27e12)] == ["0.90 kB", "2.5 MB", "41 GB", "1.3 TB"]
    assert [two_digits(value) for value in (0, 0.0344, 9.96, 34.4, 995, 3_449)] == [
        "0",
        "0.034",
        "10",
        "34",
        "1,000",
        "3,400",
    ]
    assert between((7_300, 12_300)) == "2.0 h to 3.4 h"
    assert [duration(seconds) for seconds in (3, 200, 20_000, 400_000)] == ["3.0 s", "3.3 min", "5.6 h", "4.6 days"]
