"""Tests imports: rooms import only the rooms that docs/architecture.md allows, and no files import in a circle."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest

from laion_assets_tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "laion_assets"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
FILES = sorted(PACKAGE.rglob("*.py"))
GROUND = "ground"


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without the table's first two lines."""
    start = PAGE.index(heading)
    table = [line for line in PAGE[start:] if line.startswith("|")]
    end = next((number for number, line in enumerate(table) if number > 1 and set(line) <= set("| -")), len(table) + 1)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2 : end - 1]]


ROOM_OF = {
    part: room.strip("`/")
    for room, parts, *_ in rows("# The rooms")
    for part in re.findall(r"`([\w]+)(?:/|\.py)`", parts)
}
"""The room of each folder and file in the package."""

RANK = {room.strip("`/"): number for number, (room, *_) in enumerate(rows("# The rooms"))}
MAY_USE = {room: set(uses.split(", ")) - {"–"} for room, uses, _ in rows("## Who may use whom")}
MAY_BE_USED_BY = {room: set(users.split(", ")) - {"–"} for room, _, users in rows("## Who may use whom")}


def part_of(path: Path) -> str:
    """The folder of a file in the package, or the file's name if it is in no folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imported(path: Path) -> set[str]:
    """All modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names & MODULES or {node.module}
    return found - {module_of(path)}


def rooms_used(room: str) -> set[str]:
    """The other rooms that a room's files import from, without the ground."""
    names = {name for path in FILES if ROOM_OF[part_of(path)] == room for name in imported(path)}
    parts = {name.split(".")[1] for name in names if name.startswith("laion_assets.")}
    return {ROOM_OF[part] for part in parts if part in ROOM_OF} - {room, GROUND}


def test_every_file_is_in_a_room_and_each_room_in_both_tables() -> None:
    assert {part_of(path) for path in FILES} == set(ROOM_OF)
    assert set(RANK) - {GROUND} == set(MAY_USE)


@pytest.mark.parametrize("room", [room for room in RANK if room != GROUND])
def test_a_room_uses_the_rooms_that_it_may_use_which_are_above_it(room: str) -> None:
    assert rooms_used(room) == MAY_USE[room]
    assert {used for used in MAY_USE[room] if RANK[used] >= RANK[room]} == set()
    assert {user for user, uses in MAY_USE.items() if room in uses} == MAY_BE_USED_BY[room]


def test_every_file_that_the_page_names_is_there() -> None:
    folders = ("laion_assets", "laion_assets_tests", "benchmarks")
    there = [path.as_posix() for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    named = set(re.findall(r"`([\w/]+\.py)\b", "\n".join(PAGE)))
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in there)} == set()


def test_the_ground_uses_nothing_but_itself() -> None:
    assert rooms_used(GROUND) == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module_of(path): imported(path) & MODULES for path in FILES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_engine_imports_no_dagster(path: Path) -> None:
    knows_dagster = any(name.split(".")[0].startswith("dagster") for name in imported(path))
    assert not knows_dagster or RANK[ROOM_OF[part_of(path)]] >= RANK["dagster_internals"]
