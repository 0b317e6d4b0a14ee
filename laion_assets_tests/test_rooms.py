"""Imports run one way: a room uses those above it in docs/architecture.md, and the engine imports no Dagster."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from laion_assets_tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "laion_assets"
TABLE = [
    re.findall(r"`([\w/]+?)(?:/|\.py)`", line.split("|")[1])
    for line in (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]
"""The rooms of each row of the table, from the ground up."""

RANK = {room: row for row, rooms in enumerate(TABLE) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The folder of a file, or its own name where it lies in none."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it the import is."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "laion_assets":
            found |= {f"laion_assets.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_room_is_in_the_table_and_the_table_names_no_other() -> None:
    assert {room_of(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_room_and_those_above(path: Path) -> None:
    room = room_of(path)
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("laion_assets.")} & set(RANK)
    assert {other for other in rooms if other != room and RANK[other] > RANK[room]} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_engine_imports_no_dagster(path: Path) -> None:
    knows_dagster = any(name.split(".")[0].startswith("dagster") for name in imported(path))
    assert not knows_dagster or RANK[room_of(path)] >= RANK["dagster_internals"]
