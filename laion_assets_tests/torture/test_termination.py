"""A small share of what `torture/termination.py` ends: each stage once, at the same moments each time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from laion_assets_tests.torture.termination import STAGES

QUICK = ("receive over HTTP", "insert", "build indexes", "measure recall")


@pytest.mark.parametrize("stage", QUICK)
def test_a_run_that_is_ended_is_over_within_five_seconds_and_leaves_nothing_held(stage: str) -> None:
    assert stage in STAGES
    command = [sys.executable, "-W", "ignore", "-m", "laion_assets_tests.torture.termination"]
    result = subprocess.run(
        [*command, "--times", "3", "--rows", "3000", "--seed", "5", "--stages", stage],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout, result.stderr[-2_000:]
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert found["ended"] == 3
    assert found["under_way"] > 0
