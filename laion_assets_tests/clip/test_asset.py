"""Tests of the asset `clip_encoders`: it puts encoders and functions in the store; its check encodes with them."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from laion_assets.assets.clip_encoders import clip_encoders_asset, clip_encoders_checks
from laion_assets.assets.location import CodeLocation
from laion_assets.clip.model import MODEL_FILES
from laion_assets.settings import load_settings
from laion_assets_tests.clip.conftest import sample_settings


def run(location: CodeLocation, *, raises: bool = True) -> dg.ExecuteInProcessResult:
    """Materializes the asset with its check."""
    definitions = dg.Definitions(
        assets=[clip_encoders_asset(location)],
        asset_checks=clip_encoders_checks(location),
        jobs=[dg.define_asset_job("job")],
    )
    return definitions.resolve_job_def("job").execute_in_process(raise_on_error=raises)


def test_sample_encoders_are_built_and_checked(tmp_path: Path) -> None:
    done = run(CodeLocation(sample_settings(tmp_path)))
    metadata = done.asset_materializations_for_node("clip_encoders")[0].metadata
    assert metadata["model"].value == "sample"
    assert metadata["dimension"].value == 512
    assert metadata["functions"].value == "encode_text, encode_image"
    assert all(name in str(metadata["files"].value) for name in MODEL_FILES)
    (check,) = done.get_asset_check_evaluations()
    assert check.passed
    assert (tmp_path / "functions" / "scripts" / "laion_encode_text").exists()


def test_files_that_are_missing_fail_it_with_the_facts(tmp_path: Path) -> None:
    settings = load_settings(dataset_name="laion2b-en", data_dir=tmp_path)
    done = run(CodeLocation(settings), raises=False)
    assert not done.success
    (failure,) = [event for event in done.all_events if event.event_type_value == "STEP_FAILURE"]
    assert failure.step_failure_data.error
    assert "text/model.onnx" in failure.step_failure_data.error.message
