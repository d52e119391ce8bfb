"""What seeds and test clips can resolve: power of the paired test, and seeds that an interval does not fit.

Power is planned from variance components, as for studies with several readers and cases (Hillis, Obuchowski & Berbaum
2011, Acad. Radiol. 18, with seeds as readers). They take the noncentral t distribution at the expected degrees of
freedom; here the test's bounds and its estimated degrees of freedom are averaged over the mean squares instead (scaled
chi-square, independent of the mean for normal effects), because three seeds make a difference of up to five points of
power. Where only one component matters, both agree.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from lavish.reporting.statistics import Components, Scores, variance_of_mean

POWER = 0.8
LIMITS = {"seeds": 2**12, "units": 2**24}
"""The largest numbers that :func:`needed` tries."""
DOMINANT = 0.8
"""The share of seeds in the variance of a mean from which they dominate it."""
_RELEVANT = 0.5
"""The share from which the distribution of the seeds matters for an interval."""


def power(difference: float, of: Components, level: float = 0.95) -> float:
    """Return the probability that the paired test finds a true `difference` significant, with the right sign.

    `of` are the variances of the differences of scores, and the numbers of seeds and units to plan for.
    """
    margins, error = _margins(of, level), of.variance**0.5
    if error == 0:
        return float(difference != 0)
    return float(stats.norm.sf((margins - abs(difference)) / error).mean())


def minimum_detectable_difference(of: Components, target: float = POWER, level: float = 0.95) -> float:
    """Return the true difference that the paired test finds with probability `target`; 0 without any variance."""
    error = of.variance**0.5
    if error == 0:
        return 0.0
    margins = _margins(of, level) / error

    def excess(ratio: float) -> float:
        return float(stats.norm.sf(margins - ratio).mean()) - target

    return error * float(optimize.brentq(excess, 0.0, margins.max() + 10))


def needed(difference: float, of: Components, what: Literal["seeds", "units"], target: float = POWER) -> int | None:
    """Return how many `what` find a true `difference` with probability `target`; None if no number does.

    The other number stays. At least two seeds, because one says nothing about others. With few seeds, more clips than
    needed may lose power again: as the seeds' part of the variance grows, the degrees of freedom fall to theirs.
    """

    def enough(count: int) -> bool:
        return power(difference, replace(of, **{what: count})) >= target

    low, high = 1, 2
    while not enough(high):
        if high >= LIMITS[what]:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_dominate(of: Components) -> bool:
    """Tell whether seeds have :data:`DOMINANT` or more of the variance of the mean."""
    return of.shares[0] >= DOMINANT


def seeds_apart(means: ArrayLike, of: Components) -> bool:
    """Tell whether the seeds' `means` fall into two groups, as when a training may fail, and that matters.

    True if the largest gap between neighbouring means is a larger part of their range than in 95 % of normal samples of
    their number, and seeds have half or more of the variance of the mean. So at most 5 % of normal seeds are taken for
    two groups. For three seeds it is Dixon's test of an outlier (1950, Ann. Math. Stat. 21); unlike
    his, it finds groups of several seeds. Fewer than three seeds have no groups.
    """
    ordered = np.sort(np.asarray(means, dtype=np.float64))
    if len(ordered) < 3 or ordered[0] == ordered[-1] or of.shares[0] < _RELEVANT:
        return False
    return bool(_gap(ordered) > _critical_gap(len(ordered)))


def _gap(ordered: Scores) -> Scores:
    return np.diff(ordered).max(axis=-1) / (ordered[..., -1] - ordered[..., 0])


@functools.cache
def _critical_gap(count: int) -> float:
    samples = np.sort(np.random.default_rng(0).standard_normal((50_000, count)))
    return float(np.quantile(_gap(samples), 0.95))


def _margins(of: Components, level: float) -> Scores:
    """Return the differences beyond which the test rejects, for draws of the mean squares."""
    seeds, units = of.seeds, of.units
    expected = of.residual + np.array([units * of.seed, seeds * of.unit, 0.0])
    freedom = np.array([seeds - 1, units - 1, (seeds - 1) * (units - 1)]).clip(min=1)
    ms_seed, ms_unit, ms_residual = (expected * stats.chi2.ppf(_points(), freedom) / freedom).T
    if seeds == 1:
        ms_mean, freedom_of_mean = ms_unit, np.full(len(ms_unit), units - 1.0)
    else:
        ms_mean, freedom_of_mean = variance_of_mean(ms_seed, ms_unit, ms_residual, seeds, units)
    return stats.t.ppf((1 + level) / 2, freedom_of_mean) * np.sqrt(ms_mean / (seeds * units))


@functools.cache
def _points() -> Scores:
    """Return evenly spread probabilities of the three mean squares."""
    return np.asarray(stats.qmc.Sobol(3, scramble=False).random_base2(9) + 2**-10)
