"""Tests the asset `vector_cells`: metadata, checks, and when it is built."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from laion_assets.assets.location import CodeLocation
from laion_assets.assets.vector_cells import vector_cells_asset, vector_cells_checks
from laion_assets.definitions import build_definitions
from laion_assets.health.history import COVERED_SHARDS
from laion_assets.health.keys import BUILD_JOB, asset_key, job_name
from laion_assets.index.cells.schema import require_codec
from laion_assets.settings import Settings
from laion_assets.table.connect import connect
from laion_assets.table.database import Database
from laion_assets.table.grants import search_grants
from laion_assets_tests.table.loaded import load_sample, sample_settings


def materialize(settings: Settings) -> dg.ExecuteInProcessResult:
    location = CodeLocation(settings)
    return dg.materialize(
        [dg.AssetSpec("clickhouse_partition"), vector_cells_asset(location), *vector_cells_checks(location)],
        raise_on_error=False,
    )


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_a_run_builds_cells_and_passes_and_a_shard_loaded_again_fails_the_check(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 900, 2: 400})
    result = materialize(settings)
    assert checks(result) == {"every_shard_is_in_cells": True, "cells_are_used": True, "centroids_fit": True}
    (materialization,) = result.asset_materializations_for_node("vector_cells")
    facts = {name: value.value for name, value in materialization.metadata.items()}
    assert (facts["rows"], facts[COVERED_SHARDS], facts["code_bytes_a_vector"]) == (1300, "0, 2", 132.0)
    assert float(str(facts["disk_bytes_a_vector"])) > 1156
    load_sample(settings, {2: 300}, seed=11)
    every, used, _ = vector_cells_checks(CodeLocation(settings))
    verdict = every(dg.build_asset_check_context())
    assert isinstance(verdict, dg.AssetCheckResult)
    assert not verdict.passed
    assert "shard 2 is not in the image cells, or was changed since" in str(verdict.description)
    verdict = used()
    assert isinstance(verdict, dg.AssetCheckResult)
    assert verdict.passed


def test_without_cells_the_checks_say_what_to_do(tmp_path: Path) -> None:
    settings = sample_settings(tmp_path)
    load_sample(settings, {0: 300})
    every, used, _ = vector_cells_checks(CodeLocation(settings))
    for verdict in (every(dg.build_asset_check_context()), used()):
        assert isinstance(verdict, dg.AssetCheckResult)
        assert not verdict.passed
        assert "materialize vector_cells" in str(verdict.description)


@pytest.mark.parametrize(
    ("index", "built"),
    [
        ("hnsw", {"vector_index", "recall_report"}),
        ("cells", {"vector_cells", "recall_report"}),
        ("both", {"vector_index", "recall_report", "vector_cells"}),
        ("none", set()),
    ],
)
def test_what_is_built_at_milestones_is_what_the_setting_names(tmp_path: Path, index: str, built: set[str]) -> None:
    settings = sample_settings(tmp_path, index=index)
    repository = build_definitions(settings).get_repository_def()
    automatic = {
        name
        for name in ("vector_index", "vector_cells")
        if repository.asset_graph.get(asset_key(settings, name)).automation_condition is not None
    }
    assert automatic == built - {"recall_report"}
    job = repository.get_job(job_name(settings, BUILD_JOB))
    selected = {key.path[-1] for key in job.asset_layer.selected_asset_keys}
    assert selected & {"vector_index", "recall_report", "vector_cells"} == built
    before = {key.path[-1] for key in repository.asset_graph.get(asset_key(settings, "vector_cells")).parent_keys}
    assert ("vector_index" in before) == (index == "both"), "a build of graphs swaps partitions that the cells hold"


def test_a_user_who_only_searches_may_read_the_cells_where_they_are_asked_for(tmp_path: Path) -> None:
    asked = [grant.on for grant in search_grants(sample_settings(tmp_path, index="cells"))]
    assert {"`default`.`laion_image_cells`", "`default`.`laion_centroids`"} <= set(asked)
    assert not any("cells" in grant.on for grant in search_grants(sample_settings(tmp_path)))


def test_an_engine_without_the_codec_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines before 26.7 have neither of the two settings and no codec Quantized."""
    settings = sample_settings(tmp_path)
    with connect(settings) as db:
        rows = Database.rows

        def without_settings(self: Database, sql: str, **more: object) -> object:
            return [] if "system.settings" in sql else rows(self, sql, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(Database, "rows", without_settings)
        with pytest.raises(Exception, match="no codec Quantized") as raised:
            require_codec(db)
    assert "LAION_INDEX=hnsw" in str(raised.value)
    assert "\n" not in str(raised.value)
