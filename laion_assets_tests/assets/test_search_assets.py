"""Tests the assets `vector_index` and `recall_report`: metadata, checks and failures."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from pydantic import SecretStr

from laion_assets.assets.hnsw_tuning import hnsw_tuning_asset
from laion_assets.assets.location import CodeLocation
from laion_assets.assets.recall_report import recall_report_asset, recall_report_checks
from laion_assets.assets.vector_index import index_uses, vector_index_asset, vector_index_checks
from laion_assets.definitions import build_definitions
from laion_assets.health.history import COVERED_SHARDS
from laion_assets.health.runs import failure_reason
from laion_assets.index.graphs import build_indexes
from laion_assets.index.parameters import IndexParameters
from laion_assets.recall.figures import SearchSettings, read_evaluation
from laion_assets.recall.recall_plan import RecallPlan
from laion_assets.recall.tuning import TuningPlan
from laion_assets.sample.shards import write_sample_shard
from laion_assets.searching.statement import SearchRequest, search
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets_tests.conftest import settings_for
from laion_assets_tests.table.loaded import FAST, holder, insert_behind_our_back, load_sample, sample_settings

PLAN = RecallPlan(queries=40, grid=(SearchSettings(64), SearchSettings(256), SearchSettings(64, 5)), queries_at_100=5)
TARGET = 0.9
"""A graph of 2,000 rows reaches 0.9 with any seed. It missed 0.95 in one of ten runs: the insert order varies."""


def materialize(settings: Settings, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    """Runs both assets and their checks."""
    location = CodeLocation(settings)
    return dg.materialize(
        [
            dg.AssetSpec("clickhouse_partition"),
            vector_index_asset(location),
            recall_report_asset(location, PLAN),
            *vector_index_checks(location),
            *recall_report_checks(location),
        ],
        raise_on_error=raise_on_error,
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def metadata(result: dg.ExecuteInProcessResult, key: str) -> dict[str, object]:
    (materialization,) = result.asset_materializations_for_node(key)
    return {name: value.value for name, value in materialization.metadata.items()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = sample_settings(
        tmp_path_factory.mktemp("search"), hnsw_m=16, hnsw_ef_construction=64, recall_target=TARGET
    )
    load_sample(settings, {0: 2000, 2: 700})
    return settings


def test_a_whole_run_builds_measures_and_passes(loaded: Settings) -> None:
    result = materialize(loaded)
    assert result.success
    passed = checks(result)
    beats_scan = passed.pop("index_beats_scan")
    assert passed == {"every_part_is_indexed": True, "index_is_used": True, "recall_meets_target": True}
    index = metadata(result, "vector_index")
    assert (index["partitions"], index["partitions_loaded"], index[COVERED_SHARDS]) == (2, 2, "0, 2")
    assert (index["rows"], index["vectors_built"], index["quantization"], index["m"]) == (2700, 5400, "bf16", 16)
    assert index["memory_bytes_a_vector"] == pytest.approx(1173, rel=0.02)
    assert index["memory_bytes_for_all_shards"] == pytest.approx(1350 * 4 * 2 * 1173, rel=0.02)
    assert isinstance(index["core_seconds_a_million"], float)
    report = metadata(result, "recall_report")
    # Exact search of 2,700 rows is fast, so the index may lose. The check must agree with the report.
    kinds = [name for name in report if name.startswith("times_faster_")]
    assert len(kinds) == 6
    assert beats_scan == all(float(str(report[name])) > 1 for name in kinds)
    assert "data:image/png;base64," in str(report["report"])
    assert (loaded.data_dir / "recall" / "recall.png").read_bytes().startswith(b"\x89PNG")
    for kind in ("image_to_image", "text_to_text", "text_to_image", "image_to_text", "like_by_image", "like_by_text"):
        low, mean, high = (float(str(report[f"recall_at_10_{bound}{kind}"])) for bound in ("low_", "", "high_"))
        assert TARGET <= low <= mean <= high <= 1
        assert report[f"target_met_{kind}"] is True
        assert float(str(report[f"cold_ms_{kind}"])) > 0
    evaluation = read_evaluation(loaded.data_dir / "recall")
    assert evaluation is not None
    chosen = evaluation.named["text_to_image"]
    with connect(loaded) as db:
        query = np.eye(1, 512, dtype=np.float32)[0]
        assert len(search(db, query, SearchRequest(settings=chosen.pairs())).neighbours) == 10


@pytest.fixture
def built(loaded: Settings) -> Settings:
    """The settings of `loaded`, with complete indexes."""
    with connect(loaded) as db:
        build_indexes(db)
    return loaded


def test_a_search_that_scans_silently_fails_index_is_used(built: Settings) -> None:
    _, silent = index_uses(CodeLocation(built), settings=(("query_plan_try_use_vector_search", 0),))
    assert {by: bool(use.fault) for by, use in silent.items()} == {"image": True, "text": True}


def test_a_part_without_index_fails_every_part_is_indexed(built: Settings) -> None:
    with connect(built) as db:
        db.command(f"ALTER TABLE {db.table} CLEAR INDEX text_index IN PARTITION 2", settings={"mutations_sync": 2})
    every, used = vector_index_checks(CodeLocation(built))
    verdict = every(dg.build_asset_check_context())
    assert isinstance(verdict, dg.AssetCheckResult)
    assert (verdict.passed, verdict.description) == (False, "partition 2 has no text_index")
    verdict = used(dg.build_asset_check_context())
    assert isinstance(verdict, dg.AssetCheckResult)
    assert not verdict.passed
    assert str(verdict.description).startswith("by text: 1 graphs searched where 2 parts have one")


def test_the_checks_look_at_the_index_that_the_settings_ask_for(built: Settings) -> None:
    changed = built.model_copy(update={"hnsw_m": 8})
    every, used = vector_index_checks(CodeLocation(changed))
    verdict = every(dg.build_asset_check_context())
    assert isinstance(verdict, dg.AssetCheckResult)
    assert not verdict.passed, "another M is not built yet"
    assert "partition 0 has no image_index_2" in str(verdict.description)
    with connect(changed) as db:
        build_indexes(db)
    for check in (every, used):
        verdict = check(dg.build_asset_check_context())
        assert isinstance(verdict, dg.AssetCheckResult)
        assert verdict.passed, verdict.description
    assert verdict.metadata["graphs_searched_by_text"].value == 2


def test_a_check_that_cannot_look_since_the_table_is_held_is_not_failed_but_tried_again(loaded: Settings) -> None:
    hasty = loaded.model_copy(update={"clickhouse_wait_seconds": 0.0})
    with holder(loaded.data_dir) as process:
        for check in vector_index_checks(CodeLocation(hasty)):
            with pytest.raises(dg.RetryRequested) as raised:
                check(dg.build_asset_check_context())
            assert f"held by process {process.pid}" in str(raised.value.__cause__)


def test_a_check_whose_server_does_not_answer_is_not_failed_but_tried_again(loaded: Settings) -> None:
    gone = loaded.model_copy(update={"clickhouse": SecretStr("http://127.0.0.1:9/laion")})
    gone.__dict__.pop("clickhouse_url", None)
    for check in vector_index_checks(CodeLocation(gone)):
        with pytest.raises(dg.RetryRequested) as raised:
            check(dg.build_asset_check_context())
        assert "refused" in str(raised.value.__cause__)


def test_a_bad_index_fails_recall_meets_target(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path, hnsw_m=2, hnsw_ef_construction=4)
    load_sample(settings, {0: 4000})
    result = materialize(settings)
    verdict = checks(result)
    assert verdict["every_part_is_indexed"]
    assert not verdict["recall_meets_target"]


def test_tuning_names_what_it_recommends(loaded: Settings) -> None:
    plan = TuningPlan(
        rows=800,
        parameters=(IndexParameters("bf16", 16, 64), IndexParameters("i8", 8, 32)),
        grid=(SearchSettings(64), SearchSettings(64, 5)),
        queries=5,
        other_forms=False,
    )
    # Several threads build a graph, so its recall with 800 rows and 5 queries varies. The low target allows for this.
    asset = hnsw_tuning_asset(CodeLocation(loaded.model_copy(update={"recall_target": 0.2})), plan)
    result = dg.materialize([dg.AssetSpec("clickhouse_partition"), asset])
    tuned = metadata(result, "hnsw_tuning")
    assert (tuned["rows"], tuned["partitions"], tuned["trials"]) == (800, 1, 2)
    assert tuned["cheapest_recall_at_10"] is not None
    assert set(dict(tuned["cheapest"])) >= {"LAION_HNSW_QUANTIZATION", "LAION_HNSW_M"}  # type: ignore[call-overload]
    assert "data:image/png;base64," in str(tuned["report"])


def test_bad_vectors_fail_the_asset_with_partition_and_row(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 300})
    with connect(settings) as db:
        insert_behind_our_back(db, 0, 7, "image_embedding", "arrayMap(x -> nan, image_embedding)")
    result = materialize(settings, raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("vector_index")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "partition 0: found row 500007: image_embedding is not finite" in str(failure.user_failure_data.description)


def test_without_a_table_the_asset_says_what_to_do(tmp_path: Path) -> None:
    result = materialize(sample_settings(tmp_path), raise_on_error=False)
    failure = result.failure_data_for_node("vector_index")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "load a shard first" in str(failure.user_failure_data.description)


def test_a_dataset_without_texts_is_indexed_and_measured_by_its_images(tmp_path: Path) -> None:
    """Runs every asset and check from the source: the job that loads a shard, then the job that builds the index."""
    source = tmp_path / "source"
    write_sample_shard(source, 0, 250, seed=5)
    shutil.rmtree(source / "text_emb")
    described = tmp_path / "images.toml"
    described.write_text('name = "images"\nshards = 1\ndimension = 512\nhas_text = false\n', encoding="utf-8")
    settings = settings_for(
        tmp_path / "data", source, dataset_name=str(described), recall_queries=10, recall_target=0.8, **FAST
    )
    with dg.DagsterInstance.ephemeral() as instance:
        for job, partition in (("load_shards", "0"), ("build_index", None)):
            definition = build_definitions(settings).resolve_job_def(job)
            result = definition.execute_in_process(partition_key=partition, instance=instance, raise_on_error=False)
            assert result.success, failure_reason(instance, result.run_id)
            passed = {name: verdict for name, verdict in checks(result).items() if name != "index_beats_scan"}
            assert len(passed) >= 3
            assert passed == dict.fromkeys(passed, True)
    assert metadata(result, "vector_index")["vectors_built"] == 250
    measured = [name for name in metadata(result, "recall_report") if name.startswith("recall_at_10_low_")]
    assert sorted(measured) == ["recall_at_10_low_image_to_image", "recall_at_10_low_like_by_image"]
