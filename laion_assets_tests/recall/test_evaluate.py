"""Tests of recall figures: ties count, a bad index has a low figure, and the chosen search settings meet the target."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from laion_assets.errors import TableError
from laion_assets.index.graphs import build_indexes
from laion_assets.recall import queries as queries_module
from laion_assets.recall.compare import best_by_kind
from laion_assets.recall.evaluate import evaluate
from laion_assets.recall.exact import nearest_by_blocks
from laion_assets.recall.figures import (
    Evaluation,
    KindSummary,
    Latency,
    Measurement,
    Recall,
    SearchSettings,
    read_evaluation,
    read_evaluations,
    save_evaluation,
    save_evaluations,
)
from laion_assets.recall.hits import HitCounter
from laion_assets.recall.judge import choose, meets_target
from laion_assets.recall.methods import DEFAULT_GRID, Exact, Hnsw
from laion_assets.recall.plot import inline_image, recall_plot
from laion_assets.recall.queries import Kind, QuerySet, like_sets, unseen_sets
from laion_assets.recall.recall_plan import RecallPlan, plan_for
from laion_assets.recall.report import recall_markdown
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.schema import PartitionState
from laion_assets.table.vectors import draw_rows, vectors_of
from laion_assets_tests.conftest import Transport
from laion_assets_tests.table.loaded import load_sample, sample_settings

COPIES = 900
QUICK = RecallPlan(queries=20, grid=(SearchSettings(64), SearchSettings(64, 5)), queries_at_100=6)
KINDS = ["image_to_image", "image_to_text", "text_to_image", "text_to_text", "like_by_image", "like_by_text"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, transport: Transport) -> Settings:
    """A table of 2,500 rows; the first 900 have the same image and the same text."""
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
        own = QuerySet(Kind("image", "image", like=True), drawn.ids, drawn.vectors, "row")
        truth = nearest_by_blocks(db, "image", own.vectors, own.ids, 100)
        assert truth.distances[0].max() < 1e-6
        counter = HitCounter(db, own, truth, [(0, range(2500))])
        any_ten = [row for row in range(500, 700) if row not in truth.ids[0]][:10]
        right = counter.recall([any_ten], 10)
        assert right.mean == 1.0
        assert right.by_id == 0.0
        nine_and_a_stranger = [*any_ten[:9], 2000]
        assert counter.recall([nine_and_a_stranger], 10).mean == pytest.approx(0.9)
        assert counter.recall([[]], 10).mean == 0.0
        by_index = search(db, own.vectors[0], SearchRequest(limit=11)).neighbours
        assert counter.recall([[one.id for one in by_index if one.id != 5][:10]], 10).mean == 1.0


def test_an_exact_search_has_full_recall_for_every_kind(copied: Settings) -> None:
    with connect(copied) as db:
        found = evaluate(db, replace(QUICK, grid=None), method=Exact(), folder=copied.data_dir / "exact")
    assert [kind.kind for kind in found.kinds] == KINDS
    assert {one.at_10.minimum for one in found.measurements} == {1.0}
    assert {(kind.chosen.at_10.minimum, kind.chosen.at_10.low) for kind in found.kinds} == {(1.0, 1.0)}
    assert (found.method, found.declared) == ("exact", {})


def test_copies_of_one_vector_are_asked_once(copied: Settings) -> None:
    with connect(copied) as db:
        drawn = draw_rows(db, 300, seed=0)
        sets = [*unseen_sets(db, drawn, 100, 0, "nothing"), *like_sets(db, drawn, 100, 0)]
        again = [*unseen_sets(db, drawn, 100, 0, "nothing"), *like_sets(db, drawn, 100, 0)]
    assert [queries.kind.name for queries in sets] == KINDS
    for queries in sets:
        unit = queries.vectors / np.linalg.norm(queries.vectors, axis=1, keepdims=True)
        assert (np.triu(unit @ unit.T, k=1) < 1 - 1e-6).all()
        assert len(queries) == 100
    assert all((a.vectors == b.vectors).all() for a, b in zip(sets, again, strict=True))


def test_different_vectors_are_the_same_whatever_is_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((200, 8)).astype(np.float32)[random.integers(0, 200, 300)]
    _, first = np.unique(vectors, axis=0, return_index=True)
    for at_once in (300 * 300, 300 * 7, 1):
        monkeypatch.setattr(queries_module, "COMPARED_AT_ONCE", at_once)
        assert queries_module._different(vectors, 300).tolist() == sorted(first.tolist())
        assert queries_module._different(vectors, 20).tolist() == sorted(first.tolist())[:20]


def test_memory_for_drawing_does_not_grow_with_the_square_of_the_queries() -> None:
    vectors = np.random.default_rng(0).standard_normal((9_000, 8)).astype(np.float32)
    tracemalloc.start()
    assert len(queries_module._different(vectors, 9_000)) == 9_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6, "each with each other they have 324 MB of similarities"


def test_a_bad_index_is_seen(tmp_path: Path, transport: Transport) -> None:
    settings = sample_settings(tmp_path, **transport.fresh(), hnsw_m=2, hnsw_ef_construction=4)
    load_sample(settings, {0: 5000})
    with connect(settings) as db:
        build_indexes(db)
        measured = evaluate(db, RecallPlan(queries=30, grid=(SearchSettings(16), SearchSettings(64)), queries_at_100=0))
    assert not all(meets_target(measured, kind.kind) for kind in measured.kinds)


def test_an_evaluation_without_rows_says_what_to_do(tmp_path: Path, transport: Transport) -> None:
    with (
        connect(sample_settings(tmp_path, **transport.fresh())) as db,
        pytest.raises(TableError, match="load a shard first"),
    ):
        evaluate(db, QUICK)


def measurement(search: SearchSettings, recall: float, p50: float, *, low: float | None = None) -> Measurement:
    figures = Recall(recall, 0.5, 0.1, 0.4, recall if low is None else low, min(1.0, recall + 0.01), 10)
    return Measurement("text_to_image", search, figures, None, Latency(p50, p50, None))


def evaluation(*measurements: Measurement, target: float = 0.95) -> Evaluation:
    chosen = choose(measurements, target)
    return Evaluation(
        rows=1000, shards=[0, 2], method="graph", index="bf16, M 64, ef_construction 256",
        declared={"image_index": "vector_similarity(...)"}, parts=["0_1_1_1", "2_2_2_1"], target=target, tolerance=2e-6,
        seed=0, exact_seconds=1.0, exact_from_store=False, seconds=2.0,
        kinds=[KindSummary("text_to_image", "other shards", 10, 0, Latency(40, 50, 60), 812.5, chosen)],
        measurements=list(measurements),
    )  # fmt: skip


def test_the_fastest_search_whose_lower_bound_meets_the_target_is_chosen_and_kept(tmp_path: Path) -> None:
    fast = measurement(SearchSettings(16), 0.9, 2.0)
    lucky = measurement(SearchSettings(64), 0.96, 3.0, low=0.94)
    enough = measurement(SearchSettings(128), 0.96, 5.0, low=0.951)
    slow = measurement(SearchSettings(512), 1.0, 9.0)
    measured = evaluation(slow, fast, lucky, enough)
    assert measured.chosen("text_to_image").search == SearchSettings(128)
    assert meets_target(measured, "text_to_image")
    assert measured.speedup("text_to_image") == 8.0
    save_evaluation(measured, tmp_path)
    assert read_evaluation(tmp_path) == measured
    assert measured.named == {"text_to_image": SearchSettings(128)}
    assert choose([slow, fast, lucky, enough], 1.01) == slow
    (tmp_path / "recall.json").write_text("{}")
    assert read_evaluation(tmp_path) is None
    assert read_evaluation(tmp_path / "nowhere") is None


def test_a_measurement_leaves_no_report_of_a_method_that_it_did_not_measure(tmp_path: Path) -> None:
    old = replace(evaluation(measurement(SearchSettings(64), 0.99, 3.0)), method="cells")
    new = evaluation(measurement(SearchSettings(64), 0.8, 3.0))
    save_evaluations([old], tmp_path)
    save_evaluations([new], tmp_path)
    assert read_evaluations(tmp_path) == {"graph": new}


def test_methods_that_were_asked_other_kinds_of_query_are_compared_by_each_kind() -> None:
    one = evaluation(measurement(SearchSettings(64), 0.8, 3.0))
    given = replace(one.measurements[0], kind="given_by_image", at_10=replace(one.measurements[0].at_10, low=0.9))
    kind = replace(one.kinds[0], kind="given_by_image", chosen=given)
    more = replace(one, method="cells", kinds=[kind], measurements=[given])
    assert best_by_kind([one, more]) == {"text_to_image": one, "given_by_image": more}


def test_a_mean_above_the_target_does_not_meet_it_where_its_lower_bound_is_below() -> None:
    measured = evaluation(measurement(SearchSettings(64), 0.96, 3.0, low=0.94))
    assert not meets_target(measured, "text_to_image")
    assert "| 0.960 | 0.940 to 0.970 | **no** |" in recall_markdown(measured)


def test_another_methods_evaluation_is_kept_beside_it(tmp_path: Path) -> None:
    ours = evaluation(measurement(SearchSettings(64), 0.96, 3.0))
    cells = replace(ours, method="cells", index="4,096 clusters")
    save_evaluation(ours, tmp_path)
    assert save_evaluation(cells, tmp_path).name == "recall_cells.json"
    assert (read_evaluation(tmp_path), read_evaluation(tmp_path, "cells")) == (ours, cells)


def test_the_plan_shrinks_with_the_table() -> None:
    def plan(*rows: int) -> RecallPlan:
        return plan_for([PartitionState(shard, count, 1, 1, 1) for shard, count in enumerate(rows)], 200)

    assert (plan(1_000_000, 700_000).queries, plan(1_000_000, 700_000).queries_at_100) == (200, 50)
    assert (plan(50_000, 30_000).queries, plan(50_000).queries_at_100) == (160, 25)
    assert (plan(250, 400).queries, plan(250, 400).queries_at_100) == (30, 8)
    assert plan_for([PartitionState(0, 10**6, 1, 1, 1)], 7).queries == 7, "never more than the setting"


def test_settings_that_would_look_at_a_whole_part_are_not_tried() -> None:
    assert tuple(Hnsw().settings_to_try(10**6)) == DEFAULT_GRID
    small = Hnsw().settings_to_try(400)
    assert {one.ef for one in small} == {16, 32, 64, 128, 256, 512}, "256 is less than the 400 rows of a part"
    assert {one.multiplier for one in small} == {0, 2, 5, 20}, "90 would rescore more than all rows"
    assert [str(one) for one in Hnsw().settings_to_try(40)] == ["ef 16", "ef 32", "ef 64"]


def test_without_a_plan_a_small_table_is_asked_thirty_queries_a_kind(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path, recall_targets={"image_to_image": 0.97})
    load_sample(settings, {0: 120})
    with connect(settings) as db:
        build_indexes(db)
        found = evaluate(db)
    assert {kind.kind: (kind.choosing, kind.chosen.at_10.queries) for kind in found.kinds} == dict.fromkeys(
        KINDS, (15, 15)
    )
    assert len(found.of_kind("text_to_image")) == len(Hnsw().settings_to_try(120 - 30))
    assert (found.target_of("image_to_image"), found.target_of("text_to_image")) == (0.97, 0.95)


def test_a_kind_may_have_a_target_of_its_own(tmp_path: Path) -> None:
    measured = [measurement(SearchSettings(16), 0.96, 2.0), measurement(SearchSettings(64), 0.995, 3.0)]
    assert evaluation(*measured).chosen("text_to_image").search == SearchSettings(16)
    strict = replace(evaluation(*measured, target=0.99), target=0.95, targets={"text_to_image": 0.99})
    assert strict.chosen("text_to_image").search == SearchSettings(64)
    assert meets_target(strict, "text_to_image")
    assert not meets_target(replace(strict, targets={"text_to_image": 0.999}), "text_to_image")
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
    # settings, target, recall, interval, met, p5, least, by id, at 100, p50, p95, p99, cold, exact, times
    row = (
        "| ef 16, rescoring × 5 | 0.95 | 0.970 | 0.970 to 0.980 "
        "| yes, by few queries | 0.50 | 0.10 | 0.400 | – | 3.0 | 3.0 | – | 812.5"
    )
    assert f"| text to image (10) {row} | 40.0 | 13.3 |" in text
    assert text.count("| text to image | ef 16") == 2


def test_fewer_candidates_at_100_than_the_settings_name_are_told() -> None:
    ninety = measurement(SearchSettings(2048, 90), 0.99, 9.0)
    ninety = replace(ninety, at_100=replace(ninety.at_10, mean=0.91), multiplier_at_100=9)
    five = replace(ninety, search=SearchSettings(2048, 5), multiplier_at_100=5)
    assert "| 0.910 (rescoring × 9) |" in recall_markdown(evaluation(ninety))
    assert "| 0.910 |" in recall_markdown(evaluation(five))


def test_a_percentile_is_given_where_five_searches_lie_beyond_it() -> None:
    seconds = np.linspace(0.001, 1, 1000).tolist()
    assert Latency.of(seconds[:99]).p50 == pytest.approx(50.0)
    assert Latency.of(seconds[:99]).p95 is None
    assert Latency.of(seconds[:100]).p95 == pytest.approx(95.05)
    assert Latency.of(seconds[:499]).p99 is None
    assert Latency.of(seconds[:500]).p99 == pytest.approx(495.01)
