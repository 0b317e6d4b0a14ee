"""Tests loads onto full and read-only disks, and two loads at once: all cases of `make torture`, since they are few."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from laion_assets_tests.torture.adversity import FREE_KILOBYTES, LOADED, REFUSED


def test_full_and_read_only_disks_and_two_loads_at_once_lose_nothing() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "laion_assets_tests.torture.adversity"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 3:
        pytest.skip(result.stderr.splitlines()[-1])
    assert result.stdout, result.stderr[-2_000:]
    found = json.loads(result.stdout)
    assert found["faults"] == []
    assert result.returncode == 0
    said = found["said"]
    assert said["0 kB free"].startswith(REFUSED)
    assert "No space left" in said[f"{FREE_KILOBYTES[1]} kB free"]
    assert "Read-only file system" in said["a read-only disk"]
    assert LOADED in (said["the same shards"], said["different shards"])
