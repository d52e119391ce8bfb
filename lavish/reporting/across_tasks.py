"""Summaries of each row over the tasks of a table: mean rank, probability of improvement, and PPT.

Tasks are fixed, not a sample: intervals are over seeds (and test clips, for ranks), and say nothing about other tasks.

- *Mean rank*. Rows are ranked by their means on each task (1 is best, ties share the average of their ranks; Friedman
  1937, J. Am. Stat. Assoc. 32), and the ranks averaged. The interval ranks the means of the bootstrap that gives a mean
  its interval, with the same clips and seeds drawn for all rows. Ranks of rows that are close change with every draw:
  the interval of a row in the middle is wide, and that of equal rows does not shrink with more clips.
- *Probability of improvement* (Agarwal et al. 2021, NeurIPS 34): that a training of the row scores higher than one of
  the baseline on these test clips, from all pairs of seeds, ties counted half; averaged over tasks. Its interval on a
  task is Newcombe's for the Mann-Whitney statistic (2006, Stat. Med. 25, part 2, method 5), which neither collapses
  when one row always wins nor takes seeds to be normal; the average's comes from the distances of the tasks' ends
  (MOVER; Zou & Donner 2008, Stat. Med. 27). A bootstrap over five seeds would be far too narrow.
- *PPT*, performance and trainable parameters in one number (V-PETL Bench; Xin et al. 2024, NeurIPS 37).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from lavish.config.measures import PERCENT
from lavish.planning.tables.schema import ACROSS_COLUMNS, ColumnKey, summarised
from lavish.reporting.comparison import LEVEL, Comparison, Estimate, Missing, Row, Summary, unit_scores
from lavish.reporting.records import Cost, RunResult, unit_order
from lavish.reporting.statistics import Scores, clip_values, resampled_means

Ends = tuple[float, float, float]
"""An estimate with both ends of its interval."""

PPT_PARAMETERS = 1e7
"""The C of V-PETL Bench: trainable parameters at which PPT is 0.74 of the performance."""
_DRAWS = 4000
_DECIMALS = 12  # equal results that were summed in another order differ in their last bits


def average_ranks(means: ArrayLike) -> Scores:
    """Return the ranks (rows, ...) of the highest first, along the first axis; ties have the average of their ranks."""
    return np.asarray(stats.rankdata(-np.round(np.asarray(means, np.float64), _DECIMALS), axis=0))


def mean_ranks(tasks: Sequence[Sequence[Scores]], level: float = LEVEL, seed: int = 0) -> list[Ends]:
    """Return the mean rank over tasks of each row.

    Args:
        tasks: for each task the scores (seeds, clips) of each row, of the same clips in the same order; more is better.
        level: of the intervals.
        seed: of the bootstrap; draws are the same for all rows, so that they stay paired.
    """
    found = np.mean([average_ranks([scores.mean() for scores in rows]) for rows in tasks], axis=0)
    drawn = np.zeros((len(found), _DRAWS))
    for number, rows in enumerate(tasks):
        drawn += average_ranks([resampled_means(scores, level, _DRAWS, [seed, number]) for scores in rows]) / len(tasks)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail), axis=1)
    # A rank at the edge of its draws, which ties can only pull inwards, is inside its interval.
    return [*zip(found.tolist(), np.minimum(low, found).tolist(), np.maximum(high, found).tolist(), strict=True)]


def probability_of_improvement(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Ends:
    """Return P(X > Y) + P(X = Y) / 2 for the means of trainings `x` (seeds,) and `y` (seeds,)."""
    first, second = np.round(np.asarray(x, np.float64), _DECIMALS), np.round(np.asarray(y, np.float64), _DECIMALS)
    pairs = np.sign(first[:, None] - second[None, :])
    found = float((pairs.mean() + 1) / 2)
    count, z = pairs.size, stats.norm.ppf((1 + level) / 2)
    more = (len(first) + len(second)) / 2 - 1

    def excess(true: float) -> float:
        variance = true * (1 - true) * (1 + more * (1 - true) / (2 - true) + more * true / (1 + true)) / count
        return (found - true) ** 2 - z**2 * variance

    # The ends are where the distance is z standard deviations of a Mann-Whitney statistic with that true value.
    low = 0.0 if found == 0 else float(optimize.brentq(excess, 0.0, found - 1e-9))
    high = 1.0 if found == 1 else float(optimize.brentq(excess, found + 1e-9, 1.0))
    return found, low, high


def averaged(tasks: Sequence[Ends]) -> Ends:
    """Return the average of independent estimates with the interval of MOVER, which need not be symmetric."""
    found = float(np.mean([one for one, _, _ in tasks]))
    below, above = (math.hypot(*(ends[0] - ends[side] for ends in tasks)) / len(tasks) for side in (1, 2))
    return found, max(found - below, 0.0), min(found + above, 1.0)


def ppt(performance: float, trainable: float) -> float:
    """Return the performance-parameter trade-off: performance * exp(-log10(trainable / 10^7 + 1))."""
    return performance * math.exp(-math.log10(trainable / PPT_PARAMETERS + 1))


def with_summaries(comparison: Comparison) -> Comparison:
    """Return a comparison whose rows have their summaries, if the table prints any."""
    spec = comparison.spec
    if not any(ColumnKey.of(column).name in ACROSS_COLUMNS for column in spec.columns):
        return comparison
    measures = summarised(spec.columns, spec.task)

    def runs(row: Row) -> tuple[Path | None, ...]:
        specs = [result.spec if (result := row.results.get(task)) else None for task in measures]
        return tuple(spec.folder if spec else None for spec in specs)

    # A run that several rows have is ranked once.
    rows = {runs(row): row for row in comparison.rows if all(task in row.results for task in measures)}
    scores = {key: _scores(row, comparison.baseline, measures, comparison) for key, row in rows.items()}
    ranked = {key: found for key, found in scores.items() if not isinstance(found, Missing)}
    tasks = [[*of_task] for of_task in zip(*ranked.values(), strict=True)]
    ranks = dict(zip(ranked, mean_ranks(tasks) if tasks else [], strict=True))

    def summary(row: Row) -> Summary | Missing | None:
        found = scores.get(runs(row))
        if found is None or isinstance(found, Missing):
            return found
        return Summary(ranks[runs(row)], _improvement(row, measures, comparison), _ppt(row, measures), len(ranks))

    return replace(
        comparison,
        sections=tuple(
            (title, tuple(replace(row, summary=summary(row)) for row in rows)) for title, rows in comparison.sections
        ),
    )


def _scores(
    row: Row, baseline: Row, measures: Mapping[str, str | None], comparison: Comparison
) -> tuple[Scores, ...] | Missing:
    """Return the scores (seeds, clips) of a row on each task, more is better, of the clips of the table's baseline."""
    found = []
    for task, measure in measures.items():
        run, reference = row.results[task].run, baseline.results[task].run
        for result in (run, reference):
            if not isinstance(result, RunResult):
                return result if isinstance(result, Missing) else Missing("not run")
        assert isinstance(run, RunResult) and isinstance(reference, RunResult)
        scores, order = unit_scores(run, measure), unit_order(reference.clips, run.clips)
        units = unit_scores(reference, measure)
        if scores is None or units is None:
            return Missing("not ranked: not a mean over test units")
        if order is None or not np.array_equal(np.isnan(scores[:, order]), np.isnan(units)):
            return Missing("not ranked: other test clips than the baseline")
        values = clip_values(scores[:, order], reference.clips)
        if values.shape[1] < 2:
            return Missing("units of only one test clip")
        found.append(values if comparison.measure(task, measure).higher_is_better else -values)
    return tuple(found)


def _improvement(row: Row, measures: Mapping[str, str | None], comparison: Comparison) -> Ends | None:
    """Return the probability of improvement over the row's baseline; None for the baseline itself."""
    tasks = []
    for task, measure in measures.items():
        result = row.results[task]
        mine, other = result.estimates.get(measure), result.reference.get(measure)
        if result.is_baseline or not isinstance(mine, Estimate) or not isinstance(other, Estimate):
            return None
        higher = comparison.measure(task, measure).higher_is_better
        better, worse = (mine, other) if higher else (other, mine)
        tasks.append(probability_of_improvement(better.by_seed, worse.by_seed))
    return averaged(tasks)


def _ppt(row: Row, measures: Mapping[str, str | None]) -> float | None:
    """Return the mean over tasks of PPT; None if a measure is no fraction of which more is better."""
    found = []
    for task, measure in measures.items():
        estimate, cost = row.results[task].estimates.get(measure), row.results[task].cost
        if not isinstance(estimate, Estimate) or not isinstance(cost, Cost):
            return None
        if estimate.measure.unit != PERCENT or not estimate.measure.higher_is_better:
            return None
        found.append(ppt(estimate.mean, cost.trainable_params))
    return float(np.mean(found))
