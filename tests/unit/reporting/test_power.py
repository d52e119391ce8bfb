"""Power, variance components, and warnings about seeds, against closed forms and seeded simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from lavish.reporting.power import (
    LIMITS,
    minimum_detectable_difference,
    needed,
    power,
    seeds_apart,
    seeds_dominate,
)
from lavish.reporting.statistics import Components, interval, paired_test, simultaneous, variance_of_mean

SEEDS_DOMINATE = Components(0.01, 0.04, 0.02, 5, 100)
# Standard deviations of seed effects, clip effects and residuals, and the numbers of seeds and clips.
MIXES = {
    "clips dominate": (0.0, 0.5, 0.3, 3, 250),
    "seeds dominate": (0.05, 0.0, 0.3, 5, 100),
    "both, three seeds": (0.03, 0.5, 0.3, 3, 250),
    "both, ten seeds": (0.1, 0.5, 0.3, 10, 50),
    "residuals only": (0.0, 0.0, 0.5, 3, 100),
    "residuals and seeds": (0.02, 0.2, 0.4, 3, 250),
}


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(14)


def components_of(mix: str) -> Components:
    seed, clip, residual, seeds, clips = MIXES[mix]
    return Components(seed**2, clip**2, residual**2, seeds, clips)


def draw(generator: np.random.Generator, of: Components) -> np.ndarray:
    """Draw scores around zero."""
    return (
        of.seed**0.5 * generator.standard_normal((of.seeds, 1))
        + of.unit**0.5 * generator.standard_normal((1, of.units))
        + of.residual**0.5 * generator.standard_normal((of.seeds, of.units))
    )


def components_from(scores: np.ndarray) -> Components:
    return paired_test(scores, np.zeros_like(scores)).components


@pytest.mark.parametrize("mix", MIXES)
def test_the_predicted_power_is_the_simulated_one(mix: str, generator: np.random.Generator) -> None:
    of, runs = components_of(mix), 1500
    for target in (0.5, 0.8):
        difference = minimum_detectable_difference(of, target)
        assert power(difference, of) == pytest.approx(target, abs=1e-6)
        found = 0
        for _ in range(runs):
            test = paired_test(draw(generator, of) + difference, np.zeros((of.seeds, of.units)))
            found += test.low > 0
        assert found / runs == pytest.approx(target, abs=3.5 * (target * (1 - target) / runs) ** 0.5)


def test_with_seed_variance_only_power_is_that_of_the_noncentral_t() -> None:
    for seeds in (2, 3, 10):
        of = Components(0.04, 0.0, 0.0, seeds, 100)
        for ratio in (0.5, 2, 4):
            exact = stats.nct.sf(stats.t.ppf(0.975, seeds - 1), seeds - 1, ratio)
            assert power(ratio * of.variance**0.5, of) == pytest.approx(exact, abs=2e-3)


def test_with_one_seed_power_is_that_of_the_t_test_over_clips(generator: np.random.Generator) -> None:
    of = components_from(generator.standard_normal((1, 40)))
    assert (of.seed, of.residual, of.seeds, of.units) == (0, 0, 1, 40)
    exact = stats.nct.sf(stats.t.ppf(0.975, 39), 39, 2.5)
    assert power(2.5 * of.variance**0.5, of) == pytest.approx(exact, abs=2e-3)


def test_certain_differences_are_always_found() -> None:
    of = components_from(np.full((3, 20), 0.5))
    assert of.variance == 0
    assert of.shares == (0, 0, 0)
    assert (power(0.1, of), power(0, of), minimum_detectable_difference(of)) == (1, 0, 0)
    assert needed(0.1, of, "seeds") == needed(0.1, of, "units") == 2


@pytest.mark.parametrize("mix", ["seeds dominate", "both, ten seeds"])
def test_components_and_shares_recover_those_that_scores_were_drawn_with(
    mix: str, generator: np.random.Generator
) -> None:
    of = components_of(mix)
    found = [components_from(draw(generator, of)) for _ in range(500)]
    for name in ("seed", "residual"):
        values = [getattr(one, name) for one in found]
        assert np.mean(values) == pytest.approx(getattr(of, name), abs=4 * np.std(values) / 500**0.5)
    # A component of zero is found a little above it, because none is negative.
    assert np.mean([one.unit for one in found]) == pytest.approx(of.unit, rel=0.05, abs=0.003)
    assert min(min(one.seed, one.unit) for one in found) >= 0
    many = components_from(draw(generator, replace(of, seeds=200, units=2000)))
    assert replace(many, seeds=of.seeds, units=of.units).shares == pytest.approx(of.shares, abs=0.05)
    assert sum(many.shares) == pytest.approx(1)


def test_the_needed_number_is_the_smallest_that_suffices() -> None:
    of = components_of("both, three seeds")
    difference = 0.9 * minimum_detectable_difference(of)
    for what in ("seeds", "units"):
        count = needed(difference, of, what)
        assert count is not None
        assert count > getattr(of, what)
        assert power(difference, replace(of, **{what: count})) >= 0.8
        assert power(difference, replace(of, **{what: count - 1})) < 0.8


def test_no_number_of_clips_removes_the_variance_over_seeds_and_the_reverse() -> None:
    of = components_of("both, three seeds")
    over_seeds = minimum_detectable_difference(replace(of, units=LIMITS["units"]))
    over_clips = minimum_detectable_difference(replace(of, seeds=LIMITS["seeds"]))
    assert needed(0.5 * over_seeds, of, "units") is None
    assert needed(0.95 * over_clips, of, "seeds") is None
    assert needed(1.5 * over_seeds, of, "units") is not None
    assert needed(1.5 * over_clips, of, "seeds") is not None


def test_more_clips_may_lose_power_with_few_seeds(generator: np.random.Generator) -> None:
    """So the test does behave, and a number of clips that suffices is found although more would not."""
    of = components_of("both, three seeds")
    count = needed(0.09, of, "units")
    assert count is not None
    many = replace(of, units=100 * count)
    assert power(0.09, many) < 0.78
    found = 0
    for _ in range(1500):
        # The mean over so many clips does not vary with them, nor do their mean squares.
        means = 0.09 + (of.seed + of.residual / many.units) ** 0.5 * generator.standard_normal(3)
        means = means + (of.unit / many.units) ** 0.5 * generator.standard_normal()
        ms = (many.units * means.var(ddof=1), 3 * of.unit + of.residual, of.residual)
        ms_mean, freedom = variance_of_mean(*ms, 3, many.units)
        found += means.mean() > stats.t.ppf(0.975, freedom) * (ms_mean / (3 * many.units)) ** 0.5
    assert found / 1500 == pytest.approx(power(0.09, many), abs=0.04)


# --- seeds that disagree ---


@pytest.mark.parametrize("seeds", range(3, 11))
def test_normal_seeds_are_rarely_taken_for_two_groups(seeds: int, generator: np.random.Generator) -> None:
    of, runs = replace(SEEDS_DOMINATE, seeds=seeds), 1500
    found = 0
    for _ in range(runs):
        scores = draw(generator, of)
        found += seeds_apart(scores.mean(axis=1), components_from(scores))
    assert found / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_seeds_that_vary_like_clips_rarely_dominate(seeds: int, generator: np.random.Generator) -> None:
    equal = Components(0.01 * seeds / 100, 0.01, 0.0, seeds, 100)
    assert equal.shares[:2] == pytest.approx((0.5, 0.5))
    found = [seeds_dominate(components_from(draw(generator, equal))) for _ in range(1000)]
    assert np.mean(found) <= 0.05


def test_groups_of_seeds() -> None:
    assert seeds_apart([0.01, 0.21, 0.20, 0.23, 0.22], SEEDS_DOMINATE)
    assert seeds_apart([0.01, 0.21, 0.02, 0.20, 0.22], SEEDS_DOMINATE)  # two and three
    assert seeds_apart([0.01, 0.211, 0.212], SEEDS_DOMINATE)
    assert not seeds_apart([0.18, 0.21, 0.20, 0.23, 0.22], SEEDS_DOMINATE)
    assert not seeds_apart([0.2, 0.2, 0.2], SEEDS_DOMINATE)
    assert not seeds_apart([0.1, 0.2], SEEDS_DOMINATE)
    # Two seeds of three tie by chance where scores are few and clips vary most: nothing is wrong with the interval.
    assert not seeds_apart([0.80, 0.80, 0.81], Components(0.0001, 0.2, 0.05, 3, 80))


@pytest.mark.parametrize(("seeds", "lowest", "highest"), [(3, 0.58, 0.78), (5, 0.66, 0.84)])
def test_coverage_with_trainings_that_fail_and_their_warning(
    seeds: int, lowest: float, highest: float, generator: np.random.Generator
) -> None:
    """One training in five fails: the interval covers too rarely, and a warning says so where scores show it."""
    covered, warned = [], []
    for number in range(400):
        succeeds = generator.random((seeds, 1)) < 0.8
        means = np.where(succeeds, 0.38 + 0.02 * generator.standard_normal((seeds, 1)), 0.02)
        clips = 0.25 * generator.standard_normal((1, 100)) + 0.15 * generator.standard_normal((seeds, 100))
        scores = means + np.where(succeeds, 1, 0.1) * clips
        found = interval(scores, draws=300, seed=number)
        covered.append(found.low <= 0.8 * 0.38 + 0.2 * 0.02 <= found.high)
        if 0 < succeeds.sum() < seeds:
            warned.append(seeds_apart(scores.mean(axis=1), found.components) or seeds_dominate(found.components))
    assert lowest <= np.mean(covered) <= highest
    assert len(warned) > 100
    assert np.mean(warned) > 0.95


def test_coverage_with_normal_seeds_that_dominate(generator: np.random.Generator) -> None:
    """Far better than with trainings that fail, though the warning is the same."""
    for seeds, lowest in ((3, 0.88), (5, 0.91)):
        of = Components(10 * seeds / 100, 1.0, 0.5, seeds, 100)
        results = [interval(draw(generator, of), draws=300, seed=number) for number in range(400)]
        assert lowest <= np.mean([found.low <= 0 <= found.high for found in results]) <= 0.98
        assert np.mean([seeds_dominate(found.components) for found in results]) > 0.5


# --- simultaneous intervals ---


def test_simultaneous_intervals_by_hand(generator: np.random.Generator) -> None:
    a, b = generator.random((3, 40)), generator.random((3, 40))
    test = paired_test(a, b)
    assert simultaneous([test])[0] == pytest.approx((test.low, test.high))
    low, high = simultaneous([test, test, test])[1]
    alone = paired_test(a, b, level=0.95 ** (1 / 3))
    assert (low, high) == pytest.approx((alone.low, alone.high))
    assert simultaneous([]) == []


def test_simultaneous_intervals_all_hold(generator: np.random.Generator) -> None:
    """Eight rows with a common baseline."""
    of, runs = Components(0.0009, 0.25, 0.09, 5, 100), 400
    plain = together = 0
    for _ in range(runs):
        baseline = draw(generator, of)
        tests = [paired_test(draw(generator, of), baseline) for _ in range(8)]
        plain += all(test.low <= 0 <= test.high for test in tests)
        together += all(low <= 0 <= high for low, high in simultaneous(tests))
    assert 0.93 <= together / runs <= 0.995
    assert plain / runs < 0.85
