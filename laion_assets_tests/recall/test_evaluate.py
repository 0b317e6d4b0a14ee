"""What a recall figure promises: ties count, a bad index shows, and the settings that it names do what they promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laion_assets.errors import TableError
from laion_assets.index.graphs import build_indexes
from laion_assets.recall.evaluate import DEFAULT_GRID, Judge, Plan, evaluate, plan_for
from laion_assets.recall.exact import nearest_by_blocks, true_neighbours
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    Recall,
    SearchSettings,
    read_evaluation,
    read_search_settings,
    save_evaluation,
)
from laion_assets.recall.plot import inline_image, recall_plot
from laion_assets.recall.queries import Kind, QuerySet, draw_query_sets
from laion_assets.recall.report import recall_markdown
from laion_assets.search.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import PartitionState
from laion_assets.table.vectors import vectors_of
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

COPIES = 900
QUICK = Plan(queries=15, grid=(SearchSettings(64), SearchSettings(64, 5)), queries_at_100=5)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Settings:
    """2,500 rows, of which the first 900 have one image and one text."""
    settings = sample_settings(
        tmp_path_factory.mktemp("copies"), **transport.fresh(), hnsw_m=16, hnsw_ef_construction=64
    )
    load_sample(settings, {0: 2500}, copies=COPIES)
    with connect(settings) as db:
        build_indexes(db)
    return settings


def test_with_900_copies_of_one_vector_recall_is_right(copied: Settings) -> None:
    with connect(copied) as db:
        drawn = vectors_of(db, "image", [5])
        own = QuerySet(Kind("image", "image"), drawn.ids, drawn.vectors)
        truth = nearest_by_blocks(db, "image", own.vectors, own.ids, 100)
        assert truth.distances[0].max() < 1e-6
        judge = Judge(db, own, truth, np.arange(2500))
        any_ten = [row for row in range(500, 700) if row not in truth.ids[0]][:10]
        right = judge.recall([any_ten], 10)
        assert right.mean == 1.0
        assert right.by_id == 0.0
        nine_and_a_stranger = [*any_ten[:9], 2000]
        assert judge.recall([nine_and_a_stranger], 10).mean == pytest.approx(0.9)
        assert judge.recall([[]], 10).mean == 0.0
        by_index = search(db, own.vectors[0], SearchRequest(limit=11)).neighbours
        assert judge.recall([[one.id for one in by_index if one.id != 5][:10]], 10).mean == 1.0


def test_an_exact_search_has_full_recall_for_every_kind(copied: Settings) -> None:
    with connect(copied) as db:
        sets = draw_query_sets(db, 15, seed=3)
        for queries, truth in zip(
            sets, true_neighbours(db, sets, 10, copied.data_dir / "exact").neighbours, strict=True
        ):
            judge = Judge(db, queries, truth, np.arange(2500))
            request = SearchRequest(by=queries.kind.target, limit=11, exact=True)
            found = []
            for own, vector in zip(queries.ids, queries.vectors, strict=True):
                ids = [one.id for one in search(db, vector, request).neighbours]
                found.append([row for row in ids if not (queries.kind.excludes_own_row and row == own)][:10])
            recall = judge.recall(found, 10)
            assert (queries.kind.name, recall.minimum) == (queries.kind.name, 1.0)


def test_copies_of_one_vector_are_asked_once(copied: Settings) -> None:
    with connect(copied) as db:
        sets = draw_query_sets(db, 100, seed=0)
        names = [queries.kind.name for queries in sets]
        assert sorted(names) == [
            "held_out_to_image", "image_to_image", "image_to_text", "text_to_image", "text_to_text",
        ]  # fmt: skip
        for queries in sets:
            unit = queries.vectors / np.linalg.norm(queries.vectors, axis=1, keepdims=True)
            assert (np.triu(unit @ unit.T, k=1) < 1 - 1e-6).all()
            assert len(queries) == 100
        assert all((a.vectors == b.vectors).all() for a, b in zip(sets, draw_query_sets(db, 100, 0), strict=True))
        held_out = sets[names.index("held_out_to_image")]
        nearest = nearest_by_blocks(db, "image", held_out.vectors, np.full(100, -1), 1).distances
        assert nearest.min() > 0.01


def test_a_bad_index_is_seen(tmp_path: Path, transport: Transport) -> None:
    settings = sample_settings(tmp_path, **transport.fresh(), hnsw_m=2, hnsw_ef_construction=4)
    load_sample(settings, {0: 5000})
    with connect(settings) as db:
        build_indexes(db)
        measured = evaluate(db, Plan(queries=30, grid=(SearchSettings(16), SearchSettings(64)), queries_at_100=0))
    assert not all(measured.meets_target(kind.kind) for kind in measured.kinds)


def test_an_evaluation_without_rows_says_what_to_do(tmp_path: Path, transport: Transport) -> None:
    with (
        connect(sample_settings(tmp_path, **transport.fresh())) as db,
        pytest.raises(TableError, match="load a shard first"),
    ):
        evaluate(db, QUICK)


def measurement(search: SearchSettings, recall: float, p50: float) -> Measurement:
    return Measurement("text_to_image", search, Recall(recall, 0.5, 0.1, 0.4), None, Latency(p50, p50, p50))


def evaluation(*measurements: Measurement) -> Evaluation:
    return Evaluation(
        rows=1000, shards=[0, 2], index="bf16, M 64, ef_construction 256", target=0.95, tolerance=2e-6, seed=0,
        exact_seconds=1.0, exact_from_store=False, seconds=2.0,
        kinds=[KindSummary("text_to_image", 10, 0, Latency(40, 50, 60))], measurements=list(measurements),
    )  # fmt: skip


def test_the_fastest_search_that_meets_the_target_is_chosen_and_kept(tmp_path: Path) -> None:
    fast, enough, slow = (
        (SearchSettings(16), 0.9, 2.0),
        (SearchSettings(128), 0.96, 5.0),
        (SearchSettings(512), 1.0, 9.0),
    )
    measured = evaluation(*(measurement(*one) for one in (slow, fast, enough)))
    assert measured.chosen("text_to_image").search == SearchSettings(128)
    assert measured.speedup("text_to_image") == 8.0
    save_evaluation(measured, tmp_path)
    assert read_evaluation(tmp_path) == measured
    assert read_search_settings(tmp_path) == {"text_to_image": SearchSettings(128)}
    low = replace(measured, target=1.01)
    assert low.chosen("text_to_image").search == SearchSettings(512)
    assert not low.meets_target("text_to_image")
    (tmp_path / "recall.json").write_text("{}")
    assert read_search_settings(tmp_path) == {}
    assert read_search_settings(tmp_path / "nowhere") == {}


def test_the_plan_shrinks_with_the_table() -> None:
    def plan(*rows: int) -> Plan:
        return plan_for([PartitionState(shard, count, 1, 1, 1) for shard, count in enumerate(rows)], 100)

    large = plan(1_000_000, 700_000)
    assert (large.queries, large.queries_at_100, large.grid) == (100, 25, list(DEFAULT_GRID))
    assert (plan(50_000, 30_000).queries, plan(50_000).queries_at_100) == (80, 13)
    small = plan(250, 400)
    assert (small.queries, small.queries_at_100) == (10, 3)
    assert {one.ef for one in small.grid} == {16, 32, 64, 128, 256, 512}, "256 is less than the 400 rows of a part"
    assert {one.multiplier for one in small.grid} == {0, 2, 5, 20}, "90 would rescore more than all rows"
    tiny = plan(40)
    assert [str(one) for one in tiny.grid] == ["ef 16", "ef 32", "ef 64"]
    assert plan_for([PartitionState(0, 10**6, 1, 1, 1)], 7).queries == 7, "never more than the setting"


def test_without_a_plan_a_small_table_is_asked_ten_queries_a_kind(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path, recall_targets={"image_to_image": 0.97})
    load_sample(settings, {0: 300})
    with connect(settings) as db:
        build_indexes(db)
        found = evaluate(db)
    assert {kind.queries for kind in found.kinds} == {10}
    assert len(found.measurements) == 5 * len(plan_for([PartitionState(0, 300, 1, 1, 1)], 100).grid)
    assert (found.target_of("image_to_image"), found.target_of("text_to_image")) == (0.97, 0.95)


def test_a_kind_may_have_a_target_of_its_own(tmp_path: Path) -> None:
    fast, slow = measurement(SearchSettings(16), 0.96, 2.0), measurement(SearchSettings(64), 0.995, 3.0)
    plain = evaluation(fast, slow)
    assert plain.chosen("text_to_image").search == SearchSettings(16)
    strict = replace(plain, targets={"text_to_image": 0.99})
    assert strict.chosen("text_to_image").search == SearchSettings(64)
    assert not replace(plain, targets={"text_to_image": 0.999}).meets_target("text_to_image")
    assert "target 0.95, text to image 0.99**" in recall_markdown(strict)
    save_evaluation(strict, tmp_path)
    assert read_evaluation(tmp_path) == strict


def test_search_settings_are_clickhouses_own() -> None:
    assert dict(SearchSettings(64).pairs()) == {
        "hnsw_candidate_list_size_for_search": 64, "vector_search_with_rescoring": 0,
    }  # fmt: skip
    rescored = dict(SearchSettings(256, 20).pairs())
    assert rescored["vector_search_index_fetch_multiplier"] == 20.0
    assert dict(SearchSettings(256, 20).pairs(limit=200))["vector_search_index_fetch_multiplier"] == 5.0
    assert str(SearchSettings(256, 20)) == "ef 256, rescoring × 20"


def test_the_report_shows_every_figure_and_its_picture() -> None:
    measured = evaluation(measurement(SearchSettings(16), 0.9, 2.0), measurement(SearchSettings(16, 5), 0.97, 3.0))
    picture = recall_plot(measured)
    assert picture.startswith(b"\x89PNG")
    text = recall_markdown(measured, inline_image(picture, "plot"))
    assert "![plot](data:image/png;base64," in text
    assert "| text to image (10) | ef 16, rescoring × 5 | 0.970 |" in text
    assert text.count("| text to image | ef 16") == 2
