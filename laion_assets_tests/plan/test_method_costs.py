"""Tests of a plan's costs of each search method: the methods that fit the machine, and how costs grow."""

from __future__ import annotations

import pytest

from laion_assets.index.parameters import IndexParameters
from laion_assets.plan.method_costs import MethodCost, Methods, cells_core_seconds, method_costs

PAGE = IndexParameters("bf16", 64, 256)


def methods(rows: int, *, memory: int = 64 * 10**9, cores: int = 16) -> Methods:
    return method_costs(rows, 2, 512, PAGE, partitions=max(1, rows // 10**6), cores=cores, memory=memory)


def by_name(found: Methods) -> dict[str, MethodCost]:
    return {cost.name: cost for cost in found.costs}


@pytest.mark.parametrize(
    ("rows", "memory", "named"),
    [(50_000, 10**9, "exact"), (1_000_000, 64 * 10**9, "graph"), (407_314_954, 64 * 10**9, "cells")],
)
def test_the_way_that_fits_the_machine_is_named(rows: int, memory: int, named: str) -> None:
    assert methods(rows, memory=memory).named == named


def test_all_shards_take_a_tenth_of_the_graphs_memory_as_codes() -> None:
    found = by_name(methods(407_314_954))
    assert found["graph"].memory_bytes == pytest.approx(1.27e12, rel=0.01)
    assert found["codes"].memory_bytes == pytest.approx(132 * 814_629_908)
    assert found["cells"].memory_bytes == found["codes"].memory_bytes
    assert found["cells"].core_hours < found["graph"].core_hours / 10


def test_searches_by_cells_grow_slower_than_rows() -> None:
    few, many = (by_name(methods(rows))["cells"].seconds or 0 for rows in (10**6, 10**8))
    assert few < many < 100 * few


def test_a_shard_of_its_own_is_built_in_less_than_a_core_minute_a_million_vectors() -> None:
    assert cells_core_seconds(4_000, 1) < 60 < cells_core_seconds(80_736, 410)
