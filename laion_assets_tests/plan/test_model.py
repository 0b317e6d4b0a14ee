"""Tests of the cost model, which estimates any shard, index and search from two measurements of each."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from laion_assets.index.parameters import IndexParameters
from laion_assets.plan.calibration import (
    IndexCost,
    SearchCost,
    keep_calibration,
    read_calibration,
    reference_calibration,
)
from laion_assets.plan.model import FLAT_ROWS, Line, Model
from laion_assets.plan.recall_cost import RecallCost
from laion_assets.recall.methods import DEFAULT_GRID
from laion_assets.recall.recall_plan import searches_a_kind
from laion_assets.settings import Settings, load_settings
from laion_assets_tests.plan.made_up import GB, calibration


@pytest.fixture
def model(settings: Settings) -> Model:
    return Model(calibration(settings), settings)


def test_a_line_meets_both_points_and_never_starts_or_falls_below_zero() -> None:
    assert Line.through((1, 3), (3, 7)).at(10) == 21
    assert Line.through((10, 1), (100, 100)) == Line(0.0, 1.0), "it would start at -10"
    assert Line.through((10, 5), (20, 4)) == Line(4.0, 0.0), "it would fall"


def test_a_stage_is_a_fixed_cost_and_one_a_row(model: Model) -> None:
    for rows in (0, 10_000, 100_000, 1_000_448):
        assert model.stage_seconds("load", rows) == pytest.approx(1 + rows / 10_000)
        assert model.stage_core_seconds("merge", rows) == pytest.approx(1 + rows / 10_000)
    assert model.merged_bytes(1_000_000) == 2 * GB
    assert model.table_bytes(1_000_000) == 4 * GB


def test_memory_of_a_load_stops_growing_where_an_insert_is_cut_in_pieces(model: Model) -> None:
    assert model.shard_peak_bytes(10_000) == GB
    assert GB < model.shard_peak_bytes(50_000) < model.shard_peak_bytes(FLAT_ROWS)
    assert model.shard_peak_bytes(FLAT_ROWS) == model.shard_peak_bytes(1_000_448)


def test_a_vector_of_an_index_costs_a_power_of_the_rows_of_its_part(model: Model) -> None:
    # A vector costs 1 ms in a part of 2^10 rows and 1.2 ms in one of 2^12: four times the rows cost 1.2 times as much.
    for rows in (256, 1_024, 4_096, 2**20):
        assert model.index_core_seconds(rows) == pytest.approx(2 * rows * 1e-3 * 1.2 ** (math.log2(rows / 1_024) / 2))
    assert model.index_core_seconds(0) == 0


MEASURED = {
    # rows, parts: core seconds of both graphs, seconds of their build, milliseconds of a search of a recall report
    (8_000, 4): (5.06, 3.8, 13.08),
    (8_000, 1): (8.10, 5.1, 13.49),
    (16_000, 1): (27.80, 16.5, 17.02),
    (32_000, 1): (91.37, 53.4, 20.36),
    (64_000, 4): (103.82, 61.0, 24.78),
    (64_000, 2): (185.34, 108.9, 23.89),
    (64_000, 1): (299.65, 176.6, 22.06),
}
"""Sample vectors, default parameters, two quiet cores of an AMD EPYC with 32 MB of cache, ClickHouse 26.9."""


@pytest.fixture
def measured(settings: Settings) -> Model:
    """The model by the first three tables of `MEASURED`, as a calibration measures them. A scan takes 0.39 µs a row."""
    indexes = [
        IndexCost(rows // parts, parts, seconds, cores, GB, 1_557.0)
        for (rows, parts), (cores, seconds, _) in [*MEASURED.items()][:3]
    ]
    searches = [
        SearchCost(rows, parts, 0.008, MEASURED[rows, parts][2] / 1_000, 0.46)
        for rows, parts in ((16_000, 1), (8_000, 4))
    ]
    made = calibration(settings, indexes=indexes, searches=searches)
    exact = [replace(made.exact[0], rows=8_000, seconds=0.0106), replace(made.exact[1], rows=260_000, seconds=0.109)]
    return Model(replace(made, exact=exact, machine=replace(made.machine, cores=2)), settings)


@pytest.mark.parametrize("table", MEASURED)
def test_graphs_and_searches_cost_what_was_measured_for_larger_parts(measured: Model, table: tuple[int, int]) -> None:
    rows, parts = table
    cores, seconds, search = MEASURED[table]
    assert parts * measured.index_core_seconds(rows // parts) == pytest.approx(cores, rel=0.12)
    assert parts * measured.index_seconds(rows // parts) == pytest.approx(seconds, rel=0.16)
    assert RecallCost(measured).search_seconds(rows, parts) * 1_000 == pytest.approx(search, rel=0.13)


def test_the_cost_of_a_vector_goes_through_all_measured_parts_and_grows_more_slowly_far_beyond(
    measured: Model,
) -> None:
    costs = {rows: measured.core_seconds_a_vector(rows) * 1_000 for rows in (2_000, 8_000, 16_000, 32_000, 64_000)}
    assert [round(costs[rows], 3) for rows in (2_000, 8_000, 16_000)] == [0.316, 0.506, 0.869]
    assert costs[64_000] / costs[32_000] == pytest.approx(costs[16_000] / costs[8_000])
    overall = (costs[16_000] / costs[2_000]) ** (1 / 3)
    assert measured.core_seconds_a_vector(128_000) * 1_000 / costs[64_000] == pytest.approx(overall)
    below, above = zip(*(measured.index_error(rows) for rows in (8_000, 32_000, 1_000_000)), strict=True)
    assert sorted(below) == [*below]
    assert sorted(above) == [*above]


def test_the_cost_of_a_vector_never_falls(measured: Model) -> None:
    """Where a larger part was measured cheaper, as on a machine that was busy for a moment."""
    few, middle, most = measured.calibration.indexes
    odd = replace(measured.calibration, indexes=[few, replace(middle, core_seconds=20.0), most])
    costs = [Model(odd, measured.settings).core_seconds_a_vector(rows) for rows in range(1_000, 40_000, 1_000)]
    assert costs == sorted(costs)


def test_a_search_of_a_report_has_no_cost_below_zero(measured: Model) -> None:
    """Where the larger part was searched faster than several small ones, as on a machine that was busy for a moment."""
    one, many = measured.calibration.searches
    odd = replace(measured.calibration, searches=[replace(one, report_search=0.001), replace(many, report_search=0.05)])
    cost = RecallCost(Model(odd, measured.settings))
    assert 0 < cost.search_seconds(16_000, 1) <= cost.search_seconds(1_000_000, 1) < 1


def test_the_memory_of_an_index_is_the_formula_of_the_table_room(model: Model) -> None:
    a_vector = IndexParameters.of(model.settings).bytes_a_vector(512)
    assert model.index_bytes(1_000_448) == round(2 * 1_000_448 * a_vector)
    assert model.index_peak_bytes(1_000_448) == GB // 2 + model.index_bytes(1_000_448)


def test_other_parameters_than_the_calibrations_are_scaled_by_what_is_known_of_them(settings: Settings) -> None:
    small = load_settings(dataset_name="sample", data_dir=settings.data_dir, hnsw_m=16, hnsw_ef_construction=64)
    ratio = IndexParameters.of(small).core_seconds(1, 512) / IndexParameters.of(settings).core_seconds(1, 512)
    kept = calibration(settings)
    assert Model(kept, small).index_core_seconds(5_000) == pytest.approx(
        ratio * Model(kept, settings).index_core_seconds(5_000)
    )
    assert not kept.is_of(small)


def test_a_search_by_the_index_costs_by_the_part_and_an_exact_one_by_the_row(model: Model) -> None:
    assert model.search_seconds(410) == pytest.approx(0.002 + 410 * 0.001)
    assert model.exact_seconds(1_009_000) == pytest.approx(0.009 + 1_009_000 / 1e7)


def test_a_recall_report_asks_every_query_at_every_setting_and_reads_all_rows(model: Model) -> None:
    settings = model.settings.model_copy(update={"recall_queries": 10})
    few, many = (RecallCost(Model(model.calibration, one)).seconds(80_000, 4) for one in (settings, model.settings))
    assert many > 5 * (few - 8.0) > 0
    assert RecallCost(model).seconds(0, 0) == 0


def test_a_recall_report_pays_for_the_rows_that_rescoring_reads(model: Model) -> None:
    """For each kind, thirteen settings rescore. With coarse granules, they read nearly all rows, as a scan does."""
    coarse, fine = (
        Model(model.calibration, model.settings.model_copy(update={"index_granularity": rows})) for rows in (8_192, 1)
    )
    rows, queries = 400_000, model.settings.recall_queries
    scan = model.exact_seconds(rows) - model.exact_seconds(0)
    apart = RecallCost(coarse).seconds(rows, 4) - RecallCost(fine).seconds(rows, 4)
    at_10, at_100 = searches_a_kind(queries, len(DEFAULT_GRID))
    assert 0.8 < apart / (6 * 13 / len(DEFAULT_GRID) * (at_10 + at_100) * scan) < 1


def test_wider_vectors_cost_by_their_elements(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text('name = "wide"\nshards = 2\ndimension = 1024\n[[sources]]\nurl = "x"\n')
    wide = load_settings(dataset_name=str(tmp_path / "wide.toml"), data_dir=tmp_path)
    narrow = Model(calibration(settings), settings)
    assert Model(calibration(wide), wide).table_bytes(1_000) == 2 * narrow.table_bytes(1_000)
    assert Model(calibration(wide), wide).stage_seconds("load", 10_000) == pytest.approx(3.0)


def test_a_calibration_is_kept_and_read_as_it_was(settings: Settings, tmp_path: Path) -> None:
    made = calibration(settings)
    keep_calibration(made, tmp_path / "plan" / "calibration.json")
    assert read_calibration(tmp_path / "plan" / "calibration.json") == made
    assert made.is_of(settings)
    assert not replace(made, machine=replace(made.machine, cores=made.machine.cores + 1)).is_of(settings)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"machine": 3}'])
def test_a_calibration_of_another_make_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    assert read_calibration(tmp_path / "calibration.json") is None


def test_the_calibration_that_is_shipped_can_be_read() -> None:
    shipped = reference_calibration()
    assert [cost.rows for cost in shipped.shards] == [10_000, 30_000, 100_000]
    assert shipped.index == IndexParameters("bf16", 64, 256)
