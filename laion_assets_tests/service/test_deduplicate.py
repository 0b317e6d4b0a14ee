"""Tests of which result stays when several are near duplicates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from laion_assets.service.deduplicate import SAME, first_of_each


def plain(vectors: npt.NDArray[np.float32]) -> list[int]:
    """Finds the same rows in a simpler way: it searches the graph of all similar pairs row by row."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T > SAME
    seen: set[int] = set()
    firsts = []
    for row in range(len(vectors)):
        if row in seen:
            continue
        firsts.append(row)
        reached = [row]
        while reached:
            at = reached.pop()
            if at not in seen:
                seen.add(at)
                reached += [int(other) for other in np.flatnonzero(near[at]) if other not in seen]
    return firsts


@pytest.mark.parametrize("rows", [1, 2, 511, 513, 1_300])
def test_the_first_row_of_each_connected_component_stays(rows: int) -> None:
    random = np.random.default_rng(rows)
    centres = random.normal(size=(rows // 4 + 1, 8))
    vectors = (centres[random.integers(len(centres), size=rows)] + 0.15 * random.normal(size=(rows, 8))).astype("f4")
    found = first_of_each(vectors).tolist()
    assert found == plain(vectors)


def test_a_chain_is_one_component_also_where_its_ends_are_far_apart() -> None:
    angles = np.arange(0, np.pi / 2, 0.2)
    assert first_of_each(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype("f4")).tolist() == [0]


def test_no_rows_and_zero_vectors() -> None:
    assert first_of_each(np.zeros((0, 4), dtype=np.float32)).tolist() == []
    assert first_of_each(np.zeros((2, 4), dtype=np.float32)).tolist() == [0, 1]


def test_ten_thousand_equal_rows_take_no_memory_of_their_square() -> None:
    assert first_of_each(np.ones((10_000, 16), dtype=np.float32)).tolist() == [0]
