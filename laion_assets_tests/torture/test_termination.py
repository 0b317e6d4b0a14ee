"""Tests some of the terminations of `torture/termination.py`: four stages, always at the same moments."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from laion_assets_tests.torture.termination import STAGES

QUICK = ("receive over HTTP", "insert", "build indexes", "measure recall")
SMALL = ("--times", "3", "--rows", "3000", "--queries", "4", "--seed", "5")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """One trial of all four stages, because each trial ends with a complete load, build and report."""
    command = [sys.executable, "-W", "ignore", "-m", "laion_assets_tests.torture.termination"]
    result = subprocess.run([*command, *SMALL, "--stages", *QUICK], capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr[-2_000:]
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


@pytest.mark.parametrize("stage", QUICK)
def test_a_run_that_is_ended_is_over_within_five_seconds_and_leaves_nothing_held(
    stage: str, found: dict[str, Any]
) -> None:
    assert stage in STAGES
    assert found["faults"] == []
    assert found["ended"][stage] == 3
    assert found["under_way"][stage] > 0
