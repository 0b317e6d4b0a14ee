"""Tests twelve of the kills at random moments that `make torture` tries, always the same ones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from laion_assets_tests.torture.stages import STAGES

KILLS = 12
SEED = 31


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_functions_that_are_there(stage: str) -> None:
    for place, name in STAGES[stage]:
        assert callable(getattr(place, name))


def test_loads_that_are_killed_at_random_moments_lose_and_double_nothing() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "laion_assets_tests.torture.sudden_death"]
    result = subprocess.run(
        [*command, "--kills", str(KILLS), "--seed", str(SEED)], capture_output=True, text=True, check=False
    )
    assert result.stdout, result.stderr[-2_000:]
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert result.returncode == 0
    assert found["kills"] == KILLS
    assert found["completed_loads"] >= 2
    assert len(found["kills_by_stage"]) >= 4
