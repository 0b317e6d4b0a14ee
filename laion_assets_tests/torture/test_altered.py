"""Tests 120 of the random changes to files that `make torture` tries, always the same ones."""

from __future__ import annotations

from laion_assets_tests.torture.altered import run


def test_files_altered_at_random_are_refused_or_read_as_they_are() -> None:
    found = run(cases=120, seed=11)
    assert found.fault == ""
    assert found.outcomes.total() >= 120
    assert found.outcomes["as the files say"] >= 5
    assert found.outcomes["refused (ShardFileError)"] >= 5
