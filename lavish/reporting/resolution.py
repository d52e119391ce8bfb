"""What a table can resolve: its notes on detectable differences and seeds, and the answer of `lavish power`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from lavish.config.measures import PERCENT, Measure
from lavish.errors import LavishError, did_you_mean
from lavish.planning.tables.schema import ColumnKey
from lavish.reporting.columns import NOTHING, amount, measure_heading
from lavish.reporting.comparison import (
    LEVEL,
    LEVEL_TEXT,
    Comparison,
    Difference,
    Estimate,
    Missing,
    Reads,
    TableSpec,
    compare,
    parse_spec,
)
from lavish.reporting.power import (
    DOMINANT,
    LIMITS,
    POWER,
    minimum_detectable_difference,
    needed,
    power,
    seeds_apart,
    seeds_dominate,
)

_TEST = f"two-sided test at {100 * (1 - LEVEL):.0f} %, before Holm's correction"


def resolution_notes(comparison: Comparison) -> list[str]:
    """Return one note for each measure of a table with several seeds: what it resolves, and which seeds disagree."""
    if len(comparison.spec.seeds) == 1:
        return []
    keys = _measured(comparison.spec, ("metric", "mean", "difference"))
    texts = {measure_heading(comparison, key): " ".join(_sentences(comparison, key)) for key in keys}
    return [f"{heading}: {text}" for heading, text in texts.items() if text]


def _measured(table: TableSpec, names: Sequence[str]) -> list[ColumnKey]:
    """Return the measures of a table's columns with these names, without repetition."""
    keys = [key for key in map(ColumnKey.of, table.columns) if key.name in names]
    return list(dict.fromkeys(ColumnKey("difference", key.measure, key.task or table.task) for key in keys))


def _sentences(comparison: Comparison, key: ColumnKey) -> list[str]:
    sentences = []
    measure, runs = comparison.measure(key.task, key.measure), comparison.runs(key.task)
    tested = comparison.tested(key.task, key.measure)
    if tested:
        found = [minimum_detectable_difference(difference.test.components) for difference in tested.values()]
        sentences.append(
            f"a true difference of {_in_unit(amount(statistics.median(found), measure), measure)} to "
            f"'{comparison.baseline.spec.label}' is found with {100 * POWER:g} % power (median of "
            f"{len(found)} comparison{'' if len(found) == 1 else 's'}; {_TEST})."
        )
    estimates = {label: result.estimates.get(key.measure) for label, result in runs.items()}
    resampled = {
        label: (estimate, estimate.interval.components)
        for label, estimate in estimates.items()
        if isinstance(estimate, Estimate) and estimate.interval is not None
    }
    for label, (_, components) in resampled.items():
        if runs[label] is comparison.baseline.of(key.task) and components.variance > 0:
            seeds, clips, residual = (f"{100 * share:.0f} %" for share in components.shares)
            sentences.append(f"Variance of the baseline's mean: seeds {seeds}, clips {clips}, residual {residual}.")
    apart = [label for label, (found, components) in resampled.items() if seeds_apart(found.by_seed, components)]
    dominated = [label for label, (_, components) in resampled.items() if seeds_dominate(components)]
    warnings = [f"fall into two groups in {_quoted(apart)}"] if apart else []
    if others := [label for label in dominated if label not in apart]:
        warnings.append(f"have {100 * DOMINANT:.0f} % or more of the variance in {_quoted(others)}")
    if warnings:
        sentences.append(
            f"Warning: seeds {' and '.join(warnings)}; {LEVEL_TEXT} intervals of these rows may cover less, and their "
            "tests need more seeds."
        )
    return sentences


def _quoted(labels: Sequence[str]) -> str:
    return ", ".join(f"'{label}'" for label in labels)


def _in_unit(value: str, measure: Measure) -> str:
    unit = ("point" if value == "1" else "points") if measure.unit == PERCENT else measure.unit
    return f"{value} {unit}".strip()


def needed_text(spec: dict[str, Any], difference: float, measure: str | None, task: str | None) -> str:
    """Return, for each comparison of a table, the seeds or clips that would find a true difference.

    Args:
        spec: a table that the workflow resolved.
        difference: in the unit that the table prints, so in points for percentages.
        measure: a measure or metric instead of those with a column of differences.
        task: one task of the table instead of all.

    Raises:
        LavishError: the table has no such measure or task, one seed, or no results.
    """
    table = parse_spec(spec)
    if not 0 < difference < float("inf"):
        raise LavishError(f"--difference {difference:g}: give a positive number, in the unit that the table prints")
    if len(table.seeds) == 1:
        raise LavishError(f"table '{table.name}' has one seed, which says nothing about others: give it two or more")
    keys = _asked(table, measure, task)
    reads: dict[str, Reads] = {}
    for key in keys:
        assert key.task is not None
        reads[key.task] = reads.get(key.task, Reads()) | Reads(differences=frozenset({key.measure}))
    # Tasks that were not asked for are not read.
    comparison = compare(table, dict.fromkeys(table.tasks, Reads()) | reads)
    return "\n\n".join(_needed_of(comparison, key, difference) for key in keys)


def _asked(table: TableSpec, measure: str | None, task: str | None) -> list[ColumnKey]:
    where = f"table '{table.name}'"
    if task is not None and task not in table.tasks:
        raise LavishError(f"{where} has no task '{task}'{did_you_mean(task, table.tasks)}")
    tasks = [task] if task else table.tasks
    if measure is None:
        keys = [key for key in _measured(table, ("difference",)) if key.task in tasks]
        if not keys:
            raise LavishError(f"{where} has no column of differences for {', '.join(tasks)}: give a --measure")
        return keys
    known = {one: [found.name for found in table.measures.get(one, [])] for one in tasks}
    names = list(dict.fromkeys(name for of_task in known.values() for name in of_task))
    if measure not in names:
        raise LavishError(f"{where} has no measure '{measure}'{did_you_mean(measure, names)}")
    return [
        ColumnKey("difference", None if measure == of_task[0] else measure, one)
        for one, of_task in known.items()
        if measure in of_task
    ]


def _needed_of(comparison: Comparison, key: ColumnKey, difference: float) -> str:
    measure, heading = comparison.measure(key.task, key.measure), measure_heading(comparison, key)
    results = {label: result for label, result in comparison.runs(key.task).items() if not result.is_baseline}
    differences = {label: result.differences.get(key.measure) for label, result in results.items()}
    tests = [found.test for found in differences.values() if isinstance(found, Difference)]
    if not tests:
        reasons = dict.fromkeys(found.reason for found in differences.values() if isinstance(found, Missing))
        raise LavishError(
            f"table '{comparison.spec.name}': {heading} has no comparison with the baseline "
            f"({'; '.join(reasons) or 'no other row'}): make the table first"
        )
    lines, absent = [], []
    for label, found in differences.items():
        if not isinstance(found, Difference):
            absent.append(f"{label}: {found.reason if isinstance(found, Missing) else NOTHING}")
            continue
        of, true = found.test.components, difference / measure.factor
        now = f"{100 * power(true, of):.0f} %"
        counts = [needed(true, of, "seeds"), needed(true, of, "units")]
        detectable = amount(minimum_detectable_difference(of), measure)
        lines.append([label, now, detectable, *("none" if count is None else f"{count:,}" for count in counts)])
    of = tests[0].components
    headings = ["", "Power", "Detectable", f"Seeds, at {of.units} clips", f"Clips, at {of.seeds} seeds"]
    parts = [
        f"{heading}: a true difference of {_in_unit(f'{difference:g}', measure)} to "
        f"'{comparison.baseline.spec.label}', with {100 * POWER:g} % power ({_TEST})",
        tabulate(lines, headings, disable_numparse=True, colalign=("left", *["right"] * 4)),
    ]
    if any("none" in line[3:] for line in lines):
        parts.append(
            f"none: no number suffices (up to {LIMITS['seeds']:,} seeds or {LIMITS['units']:,} clips), because the "
            "variance over the other stays."
        )
    return "\n\n".join([*parts, *(["\n".join(absent)] if absent else [])])
