"""Columns that summarise a row over the tasks of a table, and its variance over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable

from lavish.planning.tables.schema import ColumnKey, summarised
from lavish.reporting.across_tasks import ppt, probability_of_improvement
from lavish.reporting.columns import (
    NOTHING,
    Column,
    Keys,
    PublishedMarks,
    Value,
    measure_words,
    of_task,
    p_value,
    reason,
    significant,
)
from lavish.reporting.comparison import LEVEL, LEVEL_TEXT, Comparison, Estimate, Missing, Reads, Row, Summary
from lavish.reporting.records import Cost
from lavish.reporting.variance_shares import variance_ratio, widening


def _summary_column(name: str, heading: str, digits: int, note: Callable[[Comparison, Keys], str]) -> Column:
    """A number over all tasks of a table, with both ends of its interval if it has one."""

    def value(row: Row) -> tuple[float, ...] | None:
        found = getattr(row.summary, name) if isinstance(row.summary, Summary) else None
        return (found,) if isinstance(found, float) else found

    def cells(row: Row, _: ColumnKey, __: PublishedMarks) -> tuple[str, ...]:
        found, result = value(row), row.of(None)
        if found is None:
            compared_with_itself = name == "probability_of_improvement" and result is not None and result.is_baseline
            return ("baseline" if compared_with_itself and isinstance(row.summary, Summary) else reason(row.summary),)
        first, *ends = (f"{number:.{digits}f}" for number in found)
        return (f"{first} [{', '.join(ends)}]" if ends else first,)

    def fields(row: Row, _: ColumnKey) -> dict[str, Value]:
        names = (name,) if name == "ppt" else (name, f"{name}_low", f"{name}_high")
        return dict(zip(names, value(row) or (None,) * len(names), strict=True))

    return Column(lambda _: Reads(cost=name == "ppt"), lambda *_: (heading,), cells, fields, note)


def _over_tasks(comparison: Comparison) -> tuple[int, str]:
    """Return the number of tasks that summaries are over, and the measures: 'accuracy (AVE) and mIoU (S4)'."""
    spec = comparison.spec
    measures = summarised(spec.columns, spec.task)
    several = len(measures) > 1
    named = [
        measure_words(comparison.measure(task, measure)) + (f" ({spec.title_of(task)})" if several else "")
        for task, measure in measures.items()
    ]
    return len(measures), " and ".join(named)


def _rank_note(comparison: Comparison, _: Keys) -> str:
    count, measures = _over_tasks(comparison)
    ranked = max((row.summary.ranked for row in comparison.rows if isinstance(row.summary, Summary)), default=0)
    return (
        f"Mean rank: of the {ranked} different rows with results on all tasks (1 is best, ties share their average) by "
        f"{measures}; the {LEVEL_TEXT} interval is from the bootstrap of the means' intervals, with the same clips and "
        f"seeds for all rows. {_few_tasks(count)}"
    )


def _few_tasks(count: int) -> str:
    if count == 1:
        return "One task: nothing is known about others."
    every, p = "both" if count == 2 else f"all {count}", p_value(2.0 ** (1 - count))
    return (
        f"The intervals are for these {count} tasks, which tell little about others: even a row that beats another on "
        f"{every} has p = {p} in a two-sided sign test over tasks, and p < 0.05 needs six tasks."
    )


def _improvement_note(comparison: Comparison, _: Keys) -> str:
    count = _over_tasks(comparison)[0]
    seeds = len(comparison.spec.seeds)
    least = probability_of_improvement([1.0] * seeds, [0.0] * seeds)[1]
    text = (
        "Probability of improvement (Agarwal et al., NeurIPS 2021): that a training of the row scores higher on these "
        "test clips than one of the baseline, over all pairs of seeds, ties counted half, averaged over tasks. "
        f"Interval: Newcombe's for the Mann-Whitney statistic, combined over tasks by MOVER; a row that wins "
        f"{'the only pair' if seeds == 1 else f'all {seeds**2} pairs'} on a task has [{least:.2f}, 1]."
    )
    printed = any(ColumnKey.of(column).name == "mean_rank" for column in comparison.spec.columns)
    return text if printed else f"{text} {_few_tasks(count)}"


def _ppt_note(comparison: Comparison, _: Keys) -> str:
    measures = _over_tasks(comparison)[1]
    costs = [result.cost for task in comparison.spec.tasks for result in comparison.results(task)]
    most = max((cost.trainable_params for cost in costs if isinstance(cost, Cost)), default=0)
    return (
        "PPT (V-PETL Bench, Xin et al., NeurIPS 2024): M exp(-log10(N / 10⁷ + 1)) with the performance M as a fraction "
        f"and the trainable parameters N, here with the head, averaged over tasks ({measures}). The largest N here, "
        f"{significant(most / 1e6, 3)} M, lowers M by {100 * (1 - ppt(1.0, most)):.1f} %."
    )


def _share_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    of = "" if key.measure is None else f" of {measure_words(comparison.measure(key.task, key.measure))}"
    return (f"Share of variance{of} (%){of_task(comparison, key)}",)


def _share(row: Row, key: ColumnKey) -> tuple[float, float, float] | Missing | None:
    result = row.of(key.task)
    if result is None:
        return None
    mine, other = result.estimates.get(key.measure), result.reference.get(key.measure)
    if not isinstance(mine, Estimate) or not isinstance(other, Estimate):
        return next((found for found in (mine, other) if isinstance(found, Missing)), None)
    return variance_ratio(mine.by_seed, other.by_seed, LEVEL)


def _share_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    found, result = _share(row, key), row.of(key.task)
    if not isinstance(found, tuple):
        return (reason(found),)
    share, low, high = (NOTHING if math.isnan(number) else f"{100 * number:.0f}" for number in found)
    if (result is not None and result.is_baseline) or low == NOTHING or found[0] == 0:
        return (share,)
    return (f"{share} [{low}, {high}]",)


def _share_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    prefix = "" if key.measure is None else f"{key.measure}_"
    found = _share(row, key)
    values = found if isinstance(found, tuple) else (math.nan,) * 3
    names = ("variance_share", "variance_share_low", "variance_share_high")
    return {f"{prefix}{name}": None if math.isnan(value) else value for name, value in zip(names, values, strict=True)}


def _share_note(comparison: Comparison, _: Keys) -> str:
    seeds = len(comparison.spec.seeds)
    text = (
        f"Share of variance: the variance of a row's results over seeds relative to that of "
        f"'{comparison.baseline.spec.label}'. Shares need not add up to 100 %: sources may act together, and each "
        "share is an estimate. "
    )
    if seeds < 3:
        return f"{text}Fewer than three seeds give no interval."
    wider = widening(seeds, level=LEVEL)
    return (
        f"{text}Interval: {LEVEL_TEXT}, of Pitman and Morgan for pairs of seeds; {seeds} seeds say little about a "
        f"variance: for independent rows the interval of a share of 100 % is [{100 / wider:.0f}, {100 * wider:.0f}]."
    )


SUMMARIES: dict[str, Column] = {
    "variance_share": Column(
        lambda key: Reads(measures=frozenset({key.measure})),
        _share_headings,
        _share_cells,
        _share_fields,
        _share_note,
    ),
    "mean_rank": _summary_column("mean_rank", "Mean rank", 1, _rank_note),
    "probability_of_improvement": _summary_column(
        "probability_of_improvement", "Probability of improvement", 2, _improvement_note
    ),
    "ppt": _summary_column("ppt", "PPT", 3, _ppt_note),
}
