"""A bootstrap interval for the mean of a few hundred figures. It knows nothing of searches."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
RESAMPLES = 2_000

FEW_QUERIES = 50
"""With fewer queries the interval is often too narrow: if a query loses half of its neighbours or none, and the true
mean is .98, the lower bound was .99 or more in 48 % of 250 sets of 15 queries, 30 % of 25, 12 % of 50 and 2 % of 100.
At a target of .95 and a true mean of .94 it was 9 % of 15, and 0 to 1 % from 25 on."""


def mean_interval(values: npt.NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """The lower and upper bound of the mean of `values`, (n,), with 95 % confidence: the BCa bootstrap.

    Bias-corrected and accelerated: B. Efron, "Better Bootstrap Confidence Intervals", Journal of the American
    Statistical Association 82 (1987). Recall is skewed: most queries have 1, a few much less. In a trial with 500
    random sets of 50 queries whose true mean is .9885, the lower bound was .99 or more in 13 % by the plain percentile
    bootstrap and in 4 % by BCa; for sets of 100 queries it was 5 % and 3 %. Equal values give an interval of width 0.
    """
    count, mean = len(values), float(values.mean())
    if values.min() == values.max():
        return float(values[0]), float(values[0])
    drawn = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    means = values[drawn].mean(axis=1)
    normal = NormalDist()
    below = float((means < mean).mean() + (means == mean).mean() / 2)
    bias = normal.inv_cdf(min(max(below, 1 / RESAMPLES), 1 - 1 / RESAMPLES))
    # The acceleration comes from the means without one value each (jackknife).
    left_out = (values.sum() - values) / (count - 1)
    apart = left_out.mean() - left_out
    acceleration = float((apart**3).sum() / (6 * (apart**2).sum() ** 1.5))
    bounds = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        shifted = bias + normal.inv_cdf(tail)
        bounds.append(float(np.quantile(means, normal.cdf(bias + shifted / (1 - acceleration * shifted)))))
    return bounds[0], bounds[1]
