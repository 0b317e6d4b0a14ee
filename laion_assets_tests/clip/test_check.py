"""Tests that `clip check` passes for the dataset's own model and fails for another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from laion_assets.clip.check import check_clip
from laion_assets.clip.sample_model import write_sample_model
from laion_assets.sample.world import sample_world
from laion_assets.settings import Settings


def test_the_tables_own_model_passes(settings: Settings) -> None:
    found = check_clip(settings, captions=100)
    assert found.passed
    assert (found.model, found.dimension, found.texts, found.captions) == ("sample", 512, 10, 100)
    assert found.own_median > found.stranger_median + 0.1
    assert found.own_low <= found.own_median
    assert {"own_median", "expected", "passed"} <= {field.name for field in dataclasses.fields(found)}


def test_a_model_of_another_world_fails(settings: Settings, tmp_path: Path) -> None:
    write_sample_model(tmp_path / "other", sample_world(seed=1))
    found = check_clip(settings.model_copy(update={"clip_dir": tmp_path / "other"}), captions=100)
    assert not found.passed
    assert found.own_median < 0.3
