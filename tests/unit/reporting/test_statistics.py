"""Intervals and tests against closed forms, scipy and seeded simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lavish.reporting.statistics import clip_values, holm, interval, paired_test

# Standard deviations of seed effects, unit effects and residuals.
REGIMES = {
    "units dominate": (0.0, 0.5, 0.3),
    "seeds dominate": (0.05, 0.0, 0.3),
    "both": (0.03, 0.5, 0.3),
    "residuals only": (0.0, 0.0, 0.5),
}


def draw(generator: np.random.Generator, regime: str, seeds: int = 3, units: int = 250) -> np.ndarray:
    seed, unit, residual = REGIMES[regime]
    return (
        seed * generator.standard_normal((seeds, 1))
        + unit * generator.standard_normal((1, units))
        + residual * generator.standard_normal((seeds, units))
    )


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(21)


def test_one_seed_is_the_paired_t_test(generator: np.random.Generator) -> None:
    a, b = generator.random(40), generator.random(40)
    ours, theirs = paired_test(a[None], b[None]), stats.ttest_rel(a, b)
    low, high = theirs.confidence_interval()
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((low, high))
    assert ours.difference == pytest.approx(a.mean() - b.mean())
    assert ours.degrees_of_freedom == 39
    assert not ours.random_seeds


def test_without_seed_variance_it_is_the_t_test_over_units(generator: np.random.Generator) -> None:
    a, b = generator.random(40), generator.random(40)
    ours = paired_test(np.tile(a, (3, 1)), np.tile(b, (3, 1)))
    assert ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert ours.random_seeds


def test_without_unit_variance_it_is_the_t_test_over_seeds(generator: np.random.Generator) -> None:
    a, b = generator.random(4), generator.random(4)
    ours = paired_test(np.tile(a[:, None], 30), np.tile(b[:, None], 30))
    assert ours.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert ours.degrees_of_freedom == pytest.approx(3)


def test_variance_and_degrees_of_freedom_of_the_two_way_layout() -> None:
    # By hand: mean 4; seed means 3, 5; unit means 2, 4, 6. MS_seed = 3 * 2 / 1 = 6, MS_unit = 2 * 8 / 2 = 8, and the
    # residuals (+-0.5 at the outer units) give MS_residual = 1 / 2 = 0.5.
    scores = np.array([[1.5, 3.0, 4.5], [2.5, 5.0, 7.5]])
    ours = paired_test(scores, np.zeros_like(scores))
    variance = (6 + 8 - 0.5) / 6
    freedom = 13.5**2 / (6**2 / 1 + 7.5**2 / 2)
    assert ours.degrees_of_freedom == pytest.approx(freedom)
    assert ours.p == pytest.approx(2 * stats.t.sf(4 / variance**0.5, freedom))
    assert ours.high - ours.difference == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5)


def two_way_anova(scores: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of seeds, units and residuals, by least squares on indicator variables."""
    seeds, units = scores.shape
    seed, unit = np.repeat(np.eye(seeds), units, axis=0), np.tile(np.eye(units), (seeds, 1))

    def residual(*variables: np.ndarray) -> float:
        design = np.hstack([np.ones((scores.size, 1)), *variables])
        return float(((scores.ravel() - design @ np.linalg.lstsq(design, scores.ravel())[0]) ** 2).sum())

    left = residual(seed, unit)
    return (
        (residual(unit) - left) / (seeds - 1),
        (residual(seed) - left) / (units - 1),
        left / ((seeds - 1) * (units - 1)),
    )


def test_the_paired_test_agrees_with_an_independent_anova(generator: np.random.Generator) -> None:
    seeds, units = 4, 12
    a = draw(generator, "both", seeds, units) + 0.2 * generator.standard_normal((seeds, 1))
    b = draw(generator, "both", seeds, units)
    ms_seed, ms_unit, ms_residual = two_way_anova(a - b)
    assert ms_unit > ms_residual  # else the floors of the docstring would hold instead
    ms_mean = max(ms_seed + ms_unit - ms_residual, ms_unit)
    freedom = ms_mean**2 / (ms_seed**2 / (seeds - 1) + (ms_unit - ms_residual) ** 2 / (units - 1))
    error = (ms_mean / (seeds * units)) ** 0.5
    ours, difference = paired_test(a, b), (a - b).mean()
    assert ours.degrees_of_freedom == pytest.approx(freedom, rel=1e-6)
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(difference) / error, freedom), rel=1e-6)
    assert (ours.low, ours.high) == pytest.approx(stats.t.interval(0.95, freedom, difference, error), rel=1e-6)


@pytest.mark.parametrize("regime", REGIMES)
def test_the_bootstrap_interval_agrees_with_the_closed_form_for_normal_scores(
    regime: str, generator: np.random.Generator
) -> None:
    # The paired test against zero holds the same variance and degrees of freedom in closed form.
    scores = draw(generator, regime, seeds=5)
    ours, closed = interval(scores, draws=20_000), paired_test(scores, np.zeros_like(scores))
    width = closed.high - closed.low
    # The bootstrap distribution of five seeds is not normal.
    assert (ours.low, ours.high) == pytest.approx((closed.low, closed.high), abs=0.12 * width)


def test_the_bootstrap_over_units_agrees_with_scipy(generator: np.random.Generator) -> None:
    scores = generator.exponential(size=400)
    theirs = stats.bootstrap((scores,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    ours = interval(scores[None], draws=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03 * (theirs.high - theirs.low))


def test_seeds_that_agree_by_chance_do_not_make_a_difference_certain() -> None:
    # Every seed is one unit better, each on another one: Hillis's variance estimate is zero here.
    a = np.zeros((3, 40))
    a[[0, 1, 2], [0, 1, 2]] = 1
    assert paired_test(a, np.zeros_like(a)).p > 0.05


def test_no_difference_gives_p_one() -> None:
    scores = np.random.default_rng(0).random((3, 30))
    test = paired_test(scores, scores)
    assert (test.difference, test.low, test.high, test.p) == (0, 0, 0, 1)


def test_rounding_errors_are_not_a_difference() -> None:
    scores = np.random.default_rng(0).random((3, 30))
    test = paired_test((scores + 0.1) - 0.1, scores)
    assert ((scores + 0.1) - 0.1 != scores).any()
    assert (test.difference, test.p) == (0, 1)


def test_a_constant_difference_gives_p_zero() -> None:
    scores = np.zeros((3, 30))
    test = paired_test(scores + 0.5, scores)
    assert (test.difference, test.low, test.high, test.p) == (0.5, 0.5, 0.5, 0)


@pytest.mark.parametrize("regime", REGIMES)
def test_size_under_no_difference(regime: str, generator: np.random.Generator) -> None:
    rejected = [paired_test(draw(generator, regime), draw(generator, regime)).p < 0.05 for _ in range(1000)]
    assert 0.01 <= np.mean(rejected) <= 0.065


def test_power(generator: np.random.Generator) -> None:
    seed, unit, residual = REGIMES["both"]
    standard_error = (2 * (seed**2 / 3 + unit**2 / 250 + residual**2 / 750)) ** 0.5
    rejected = [
        paired_test(draw(generator, "both") + 4 * standard_error, draw(generator, "both")).p < 0.05 for _ in range(200)
    ]
    assert np.mean(rejected) > 0.85


@pytest.mark.parametrize("regime", REGIMES)
def test_coverage_with_three_seeds(regime: str, generator: np.random.Generator) -> None:
    covered = []
    for number in range(600):
        result = interval(draw(generator, regime), draws=600, seed=number)
        covered.append(result.low <= 0 <= result.high)
    assert 0.92 <= np.mean(covered) <= 0.995


def test_coverage_of_shares(generator: np.random.Generator) -> None:
    """Segment accuracies in tenths, high enough to be skewed; the truth is integrated over the normal logit."""

    def shares(units: int) -> np.ndarray:
        logit = 2.5 + 2 * generator.standard_normal((1, units)) + 0.1 * generator.standard_normal((3, 1))
        return generator.binomial(10, 1 / (1 + np.exp(-logit)), (3, units)) / 10

    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    truth = weights @ (1 / (1 + np.exp(-(2.5 + np.hypot(2, 0.1) * nodes)))) / weights.sum()
    results = [interval(shares(250), draws=600, seed=number, limits=(0, 1)) for number in range(500)]
    assert 0.92 <= np.mean([result.low <= truth <= result.high for result in results]) <= 0.98


def test_interval_of_one_seed_covers_units_only(generator: np.random.Generator) -> None:
    scores = generator.standard_normal((1, 500))
    result = interval(scores)
    low, high = stats.t.interval(0.95, 499, scores.mean(), stats.sem(scores[0]))
    assert not result.random_seeds
    assert result.std is None
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.03 * (high - low))


def test_interval_reports_mean_and_std_over_seeds(generator: np.random.Generator) -> None:
    scores = generator.random((3, 50))
    result = interval(scores)
    assert result.mean == pytest.approx(scores.mean())
    assert result.std == pytest.approx(scores.mean(axis=1).std(ddof=1))
    assert result.low < result.mean < result.high
    assert result.random_seeds


def test_interval_is_reproducible_and_its_seed_matters(generator: np.random.Generator) -> None:
    scores = generator.random((3, 50))
    assert interval(scores) == interval(scores)
    assert interval(scores).low != interval(scores, seed=1).low


def test_interval_level(generator: np.random.Generator) -> None:
    scores = generator.random((3, 50))
    wide, narrow = interval(scores, level=0.99), interval(scores, level=0.8)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_stays_within_the_limits_of_the_metric() -> None:
    scores = np.ones((3, 20))
    scores[0, 0] = 0
    assert interval(scores).high > 1
    assert interval(scores, limits=(0, 1)).high == 1


def test_interval_of_equal_scores_has_no_width() -> None:
    result = interval(np.full((3, 20), 0.7))
    assert (result.low, result.high) == pytest.approx((0.7, 0.7), abs=1e-12)


def test_holm_agrees_with_its_definition(generator: np.random.Generator) -> None:
    p = generator.random(16) ** 3
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.minimum((16 - np.arange(16)) * p[order], 1))
    assert np.array(holm(p.tolist()))[order] == pytest.approx(stepped)


def test_holm_controls_the_family_wise_error_rate(generator: np.random.Generator) -> None:
    """Sixteen rows without a difference to their common baseline, as in a table."""
    found = 0
    for _ in range(400):
        baseline = draw(generator, "both", units=100)
        smallest = min(paired_test(draw(generator, "both", units=100), baseline).p for _ in range(16))
        found += 16 * smallest < 0.05  # the first step of Holm's procedure decides whether there is any finding
    assert found / 400 <= 0.08


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1, and never below the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([]) == []


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((3, 1)), np.zeros((0, 5)), np.full((2, 5), np.nan)])
def test_invalid_scores_are_an_error(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores must be"):
        interval(scores)


def test_paired_scores_must_have_the_same_shape() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5\) and \(2, 6\)"):
        paired_test(np.zeros((2, 5)), np.zeros((2, 6)))


# --- units that share a clip ---


def clustered(
    generator: np.random.Generator, seeds: int, clips: int, shared: float = 0.4
) -> tuple[np.ndarray, list[str]]:
    """Draw scores (seeds, units) of 1 to 9 units a clip, with effects of clip, seed and unit, and each unit's clip.

    Clips with many units are the harder ones: the mean over units is then not that over clips.
    """
    sizes = generator.integers(1, 10, clips)
    of_unit = np.repeat(np.arange(clips), sizes)
    clip_effect = shared * generator.standard_normal(clips) - 0.1 * (sizes - 5)
    scores = (
        clip_effect[of_unit]
        + 0.02 * generator.standard_normal((seeds, 1))
        + 0.3 * generator.standard_normal((seeds, len(of_unit)))
    )
    return scores, [f"clip{clip}" for clip in of_unit]


def test_clip_values_of_clips_with_one_unit_are_the_scores(generator: np.random.Generator) -> None:
    scores = generator.random((3, 50))
    np.testing.assert_array_equal(clip_values(scores, [f"clip{unit}" for unit in range(50)]), scores)


def test_clip_values_by_hand() -> None:
    # Mean 0.5 over four units; two clips, so a unit weighs 2 / 4: 0.5 + 0.5 * (0.5 + 0.5 - 0.5) and the rest.
    scores = np.array([[1.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(clip_values(scores, ["b", "b", "b", "a"]), [[0.75, 0.25]])


def test_clip_values_have_the_mean_over_units(generator: np.random.Generator) -> None:
    scores, clips = clustered(generator, 3, 40)
    values = clip_values(scores, clips)
    assert values.shape == (3, 40)
    np.testing.assert_allclose(values.mean(axis=1), scores.mean(axis=1))
    by_clip = [scores[:, np.array(clips) == clip].mean() for clip in dict.fromkeys(clips)]
    assert abs(np.mean(by_clip) - scores.mean()) > 0.01


def test_clip_values_have_the_variance_of_the_linearised_ratio(generator: np.random.Generator) -> None:
    """Cochran 1977, (6.13), without the correction for a finite population: of totals over clips, by hand."""
    [scores], clips = clustered(generator, 1, 60)
    totals = np.array([scores[np.array(clips) == clip].sum() for clip in dict.fromkeys(clips)])
    sizes = np.array([clips.count(clip) for clip in dict.fromkeys(clips)])
    ratio = totals.sum() / sizes.sum()
    variance = ((totals - ratio * sizes) ** 2).sum() / (60 - 1) / 60 / sizes.mean() ** 2
    test = paired_test(clip_values(scores[None], clips), np.zeros((1, 60)))
    assert (test.high - test.low) / 2 == pytest.approx(stats.t.ppf(0.975, 59) * variance**0.5)


def test_units_with_nan_are_ignored(generator: np.random.Generator) -> None:
    scores, clips = clustered(generator, 2, 30)
    counted = generator.random(len(clips)) < 0.4
    counted[np.array(clips) == "clip3"] = False
    holes = np.where(counted, scores, np.nan)
    kept = [clip for clip, here in zip(clips, counted, strict=True) if here]
    np.testing.assert_allclose(clip_values(holes, clips), clip_values(scores[:, counted], kept))
    assert "clip3" not in kept


def test_clip_values_without_a_mean_are_an_error() -> None:
    with pytest.raises(ValueError, match="no unit counts"):
        clip_values([[1.0, 0.0], [np.nan, np.nan]], ["a", "b"])
    with pytest.raises(ValueError, match="of 3 units"):
        clip_values([[1.0, 0.0]], ["a", "b", "c"])


def test_coverage_and_size_with_units_that_share_clips(generator: np.random.Generator) -> None:
    """Resampling units as if they were independent has too low a coverage; resampling clips does not."""
    by_clip = by_unit = rejected = 0
    runs = 300
    for _ in range(runs):
        scores, clips = clustered(generator, 3, 80)
        # In the population clips have the expected size 5, and a clip of k units the mean -0.1 (k - 5).
        truth = sum(-0.1 * (size - 5) * size for size in range(1, 10)) / 9 / 5
        found, naive = interval(clip_values(scores, clips), draws=500), interval(scores, draws=500)
        by_clip += found.low <= truth <= found.high
        by_unit += naive.low <= truth <= naive.high
        other = scores + 0.2 * generator.standard_normal(80)[np.unique(clips, return_inverse=True)[1]]
        rejected += paired_test(clip_values(scores, clips), clip_values(other, clips)).p < 0.05
    assert 0.92 <= by_clip / runs <= 0.985
    assert by_unit / runs < 0.8
    assert rejected / runs < 0.08
