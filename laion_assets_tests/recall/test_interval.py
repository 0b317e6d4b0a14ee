"""Tests of the interval of a mean: it contains the true mean as often as it states, also for skewed figures."""

from __future__ import annotations

import numpy as np

from laion_assets.recall.interval import mean_interval

RECALLS = np.array([1.0, 0.9, 0.8, 0.5])


def drawn(mean: float, queries: int, seed: int) -> np.ndarray:
    """Returns the recall of `queries` queries, drawn from a skewed distribution with this mean: most are 1."""
    share = (1 - mean) / (0.1 + 0.2 / 4 + 0.5 / 20)
    weights = [1 - 1.3 * share, share, share / 4, share / 20]
    return np.random.default_rng(seed).choice(RECALLS, queries, p=weights)


def test_equal_figures_have_an_interval_of_no_width() -> None:
    assert mean_interval(np.full(20, 0.9)) == (0.9, 0.9)


def test_the_bounds_lie_about_the_mean_and_come_closer_with_more_figures() -> None:
    few, many = (mean_interval(drawn(0.95, queries, seed=1)) for queries in (50, 800))
    for (low, high), queries in ((few, 50), (many, 800)):
        assert low < drawn(0.95, queries, seed=1).mean() < high
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_a_target_that_is_not_reached_is_seldom_said_to_be() -> None:
    """The true mean is 0.9885, but in two of five sets of 100 queries the mean alone reaches the target 0.99."""
    sets = [drawn(0.9885, 100, seed) for seed in range(400)]
    assert np.mean([one.mean() >= 0.99 for one in sets]) > 0.3
    assert np.mean([mean_interval(one)[0] >= 0.99 for one in sets]) < 0.05


def test_a_target_that_is_well_exceeded_is_said_to_be_met() -> None:
    sets = [drawn(0.985, 100, seed) for seed in range(200)]
    assert np.mean([mean_interval(one)[0] >= 0.95 for one in sets]) > 0.95
