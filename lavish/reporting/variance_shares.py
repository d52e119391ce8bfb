"""The variance of one row's results over seeds, relative to that of another row with the same seeds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def variance_ratio(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Return the ratio of the variances of `x` and `y` (seeds,), paired by seed, with its interval.

    Exact for pairs from a bivariate normal distribution (Pitman 1939 and Morgan 1939, Biometrika 31): rows that share a
    seed share what both draw from it, and are not independent, as the F interval would have it. With the correlation r
    and n seeds, the ends are ratio * (k -+ sqrt(k^2 - 1)), k = 1 + 2 (1 - r^2) t^2 / (n - 2), with Student's t at n - 2
    degrees of freedom.

    Fewer than three seeds have no interval: its ends are NaN, as are all three if `y` does not vary. If `x` does not
    vary, the ratio is zero and certain.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    seeds = len(first)
    if seeds != len(second):
        raise ValueError(f"{seeds} and {len(second)} seeds cannot be paired")
    if seeds < 2 or (second == second[0]).all():
        return math.nan, math.nan, math.nan
    if (first == first[0]).all():  # exactly, not but for rounding
        return 0.0, 0.0, 0.0
    ratio = float(first.var(ddof=1) / second.var(ddof=1))
    if seeds == 2:
        return ratio, math.nan, math.nan
    wider = widening(seeds, float(np.corrcoef(first, second)[0, 1]), level)
    return ratio, ratio / wider, ratio * wider


def widening(seeds: int, correlation: float = 0.0, level: float = 0.95) -> float:
    """Return the factor between a ratio of variances and both ends of its interval, for three or more seeds."""
    t = float(stats.t.ppf((1 + level) / 2, seeds - 2))
    k = 1 + 2 * (1 - min(correlation**2, 1.0)) * t**2 / (seeds - 2)
    return k + math.sqrt(k**2 - 1)
