"""Tests of tuning: it compares trials, finds the Pareto front, advises for the full size and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace

import pytest

from laion_assets.errors import TableError
from laion_assets.index.parameters import IndexParameters
from laion_assets.index.trial import StoredForm, scan_trial, stored_forms, trial_table
from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.recall.figures import SearchSettings
from laion_assets.recall.tuning import Tuning, TuningPlan, recommended_settings, tune
from laion_assets.recall.tuning_report import tuning_markdown, tuning_plot
from laion_assets.recall.unseen import kept_out_queries
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.schema import partitions
from laion_assets.table.vectors import draw_rows, vectors_of
from laion_assets_tests.table.loaded import load_sample, sample_settings

PLAN = TuningPlan(
    rows=1500,
    partitions=2,
    parameters=(IndexParameters("bf16", 16, 64), IndexParameters("i8", 8, 32), IndexParameters("b1", 2, 4)),
    grid=(SearchSettings(64), SearchSettings(64, 5)),
    queries=20,
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = sample_settings(tmp_path_factory.mktemp("tuning"))
    load_sample(settings, {0: 1200, 1: 800})
    return settings


@pytest.fixture(scope="module")
def tuned(loaded: Settings) -> Tuning:
    with connect(loaded) as db:
        return tune(db, PLAN)


def tables(db: Database) -> list[str]:
    return [str(name) for (name,) in db.rows("SELECT name FROM system.tables WHERE database = 'default'")]


def test_every_trial_is_measured_and_the_table_is_as_it_was(tuned: Tuning, loaded: Settings) -> None:
    assert [trial.parameters for trial in tuned.trials] == list(PLAN.parameters)
    assert [trial.evaluation.rows for trial in tuned.trials] == [1500] * 3
    assert [round(trial.memory_bytes_a_vector, -1) for trial in tuned.trials] == [1170, 600, 110]
    good, _, bad = tuned.trials
    assert good.meets_target
    assert not bad.meets_target
    with connect(loaded) as db:
        assert tables(db) == ["laion"]
        assert db.one(f"SELECT count() FROM {db.table}") == (2000,)


def test_the_cheapest_that_meets_the_target_is_named_at_full_size(tuned: Tuning) -> None:
    assert tuned.cheapest is not None
    assert tuned.cheapest.meets_target
    assert tuned.trials[2] in tuned.front
    assert tuned.dataset_vectors == 4 * 1000 * 2
    assert tuned.memory_gb(tuned.trials[0]) == pytest.approx(8000 * 1171 / 1e9, rel=0.02)
    hours = tuned.build_core_hours(tuned.trials[0])
    assert hours is not None
    assert hours > 0
    assert recommended_settings(tuned.trials[1])["LAION_HNSW_QUANTIZATION"] == "i8"
    text = tuning_markdown(tuned, "![x](data:)")
    assert f"Cheapest to build: **{tuned.cheapest}**" in text
    assert "ClickHouse's page: not tried" in text
    assert tuning_plot(tuned).startswith(b"\x89PNG")


def test_other_stored_forms_stand_beside_it(tuned: Tuning) -> None:
    forms = {form.name: form for form in tuned.forms}
    exact = forms["Array(Float32), exact"]
    assert exact.recall is not None
    assert exact.recall.mean == 1.0
    assert not exact.experimental
    assert len(forms) == len(stored_forms(512))
    assert {form.name: form.refused for form in tuned.forms} == dict.fromkeys(forms, "")
    assert {form.name for form in tuned.forms if form.recall is None or form.latency is None} == set()
    assert forms["Array(BFloat16)"].bytes_a_vector < 0.6 * exact.bytes_a_vector


def test_a_form_that_the_engine_refuses_is_reported_as_such(loaded: Settings) -> None:
    with connect(loaded) as db:
        drawn = vectors_of(db, "image", draw_rows(db, 2, seed=0))
        trial = scan_trial(db, StoredForm("new", "Array(NoSuchType)", "v"), drawn.vectors, drawn.ids, 10)
        assert "NoSuchType" in trial.refused
        assert tables(db) == ["laion"]


def test_the_scratch_table_goes_also_when_a_trial_fails(loaded: Settings) -> None:
    with connect(loaded) as db:
        with (
            pytest.raises(TableError),
            trial_table(
                db, rows=100, partitions=1, seed=0, index_granularity=64, parameters=PLAN.parameters[0]
            ) as table,
        ):
            assert table.one(f"SELECT count() FROM {table.table}") == (100,)
            table.command("SELECT throwIf(1)")
        assert tables(db) == ["laion"]


def test_a_trial_may_have_more_partitions_than_a_block_of_an_insert(loaded: Settings) -> None:
    """By default, ClickHouse refuses an insert whose block has rows of more than 100 partitions."""
    with (
        connect(loaded) as db,
        trial_table(
            db, rows=900, partitions=230, seed=0, index_granularity=512, parameters=PLAN.parameters[0], kept_out=50
        ) as table,
    ):
        assert table.one(f"SELECT count(), uniqExact(shard) FROM {table.table}") == (900, 230)
        assert {state.parts for state in partitions(table)} == {1}


def test_queries_are_kept_out_of_the_trial(loaded: Settings) -> None:
    with (
        connect(loaded) as db,
        trial_table(
            db, rows=1000, partitions=1, seed=3, index_granularity=512, parameters=PLAN.parameters[0], kept_out=30
        ) as table,
    ):
        queries = kept_out_queries(db, table, 10, 3)
        assert (len(queries.sets), {len(one) for one in queries.sets}) == (4, {10})
        images = queries.sets[0]
        nearest = nearest_by_blocks(table, "image", images.vectors, images.own_rows, 1).distances
        assert nearest.min() > 1e-4


def test_a_sample_larger_than_the_table_is_what_the_queries_leave(loaded: Settings) -> None:
    few = replace(PLAN, rows=10_000, partitions=1, parameters=PLAN.parameters[:1], other_forms=False)
    with connect(loaded) as db:
        assert tune(db, few).rows == 2000 - 3 * PLAN.queries
