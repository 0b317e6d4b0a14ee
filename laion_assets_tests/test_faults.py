"""Tests that docs/faults.md names existing tests for every fault."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from laion_assets_tests.conftest import REPOSITORY

TESTS = REPOSITORY / "laion_assets_tests"
ROWS = [
    line
    for line in (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| L")
]
NUMBERS = [row.split("|")[1].strip() for row in ROWS]


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of the test functions of a file."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_fault_that_people_met_is_listed_once() -> None:
    assert NUMBERS[:32] == [f"L{number}" for number in range(1, 33)]
    assert [f"L{number}" for number in range(1, len(NUMBERS) + 1)] == NUMBERS


@pytest.mark.parametrize("row", ROWS, ids=NUMBERS)
def test_a_fault_names_its_policy_and_tests_that_exist(row: str) -> None:
    _, _, fault, policy, tests, _ = (cell.strip() for cell in row.split("|"))
    assert fault
    assert policy
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    assert " ".join(f"`{path}::{name}`" for path, name in named) == tests
    for path, name in named:
        assert name in names_in(path), f"{path} has no {name}"
