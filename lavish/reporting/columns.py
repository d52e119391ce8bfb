"""The columns of tables: what each one reads, its headings, cells, CSV fields and note.

A new column is one entry of :data:`COLUMNS` (of summary_columns.py, if it summarises) and its name in
:mod:`lavish.planning.tables.schema`. Cells hold plain text; tables.py turns it into markdown or LaTeX.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lavish.config.measures import PERCENT, Measure
from lavish.planning.tables.schema import RELIANCE, ColumnKey
from lavish.reporting.comparison import (
    LEVEL_TEXT,
    Comparison,
    Difference,
    Estimate,
    Missing,
    NotApplicable,
    PublishedNumber,
    Reads,
    Result,
    Row,
)
from lavish.reporting.records import Cost, RunResult, TrainingRecord

NOTHING = "–"
DOUBLE_DAGGER = "‡"
EDGE = {"lowest": "▽", "highest": "△"}
"""Marks of a chosen value beyond which nothing was tried."""
Value = str | int | float | None
Keys = Sequence[ColumnKey]


@dataclass(frozen=True)
class Column:
    """A name in a table's `columns`; it may print several columns.

    `headings` and `cells` have the same length. `fields` returns this column's part of a CSV line (None: empty). `note`
    explains all columns of the name in the caption (once for columns that share the function).
    """

    reads: Callable[[ColumnKey], Reads]
    headings: Callable[[Comparison, ColumnKey], tuple[str, ...]]
    cells: Callable[[Row, ColumnKey, PublishedMarks], tuple[str, ...]]
    fields: Callable[[Row, ColumnKey], dict[str, Value]]
    note: Callable[[Comparison, Keys], str]


@dataclass(frozen=True)
class PublishedMarks:
    """How cells mark published values.

    Attributes:
        numbers: footnote numbers of the sources, in order of appearance.
        ambiguous: metrics that are published for more than one data set; their values name it.
    """

    numbers: Mapping[str, int]
    ambiguous: frozenset[str]

    @classmethod
    def of(cls, comparison: Comparison) -> PublishedMarks:
        published = {number.id: number for row in comparison.rows for number in row.spec.published}
        of_metric: dict[str, set[str]] = {}
        for number in published.values():
            of_metric.setdefault(number.metric, set()).add(number.table)
        return cls(
            {name: number for number, name in enumerate(published, start=1)},
            frozenset(metric for metric, tables in of_metric.items() if len(tables) > 1),
        )


def measure_words(measure: Measure) -> str:
    """Return the name of a measure for headings: 'mIoU_validation_threshold' -> 'mIoU validation threshold'."""
    text = measure.name.removesuffix("_published" if measure.as_published else "").replace("_", " ")
    first, space, rest = text.partition(" ")
    first = first if first != first.lower() else first.capitalize()
    return f"{first}{space}{rest}" + (f" as published {DOUBLE_DAGGER}" if measure.as_published else "")


def in_unit(measure: Measure) -> str:
    """Return the unit of a measure in brackets, for headings: ' (%)'."""
    return f" ({measure.unit})" if measure.unit else ""


def measure_heading(comparison: Comparison, key: ColumnKey) -> str:
    """Return the name of a column's measure, and of its task if the table has several."""
    return measure_words(comparison.measure(key.task, key.measure)) + of_task(comparison, key)


def of_task(comparison: Comparison, key: ColumnKey) -> str:
    """Return the task of a column for headings, if the table has several: ', AVE'."""
    spec = comparison.spec
    return f", {spec.title_of(key.task or spec.task)}" if len(spec.tasks) > 1 else ""


def amount(value: float, measure: Measure) -> str:
    """Return a value in its measure's unit, without the unit: the fraction 0.8132 -> '81.3', 8.132 dB -> '8.13'."""
    return f"{measure.factor * value:.{_digits(measure)}f}".replace("-", "−")


def change(difference: float, measure: Measure) -> str:
    """Return a difference with its sign, of fractions in percentage points: -0.004 -> '−0.4'."""
    text = f"{measure.factor * difference:+.{_digits(measure)}f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text


def _digits(measure: Measure) -> int:
    return 1 if measure.unit == PERCENT else 2


def significant(value: float, digits: int = 4) -> str:
    """Return a positive number with `digits` significant digits, one less below 1, and never in scientific notation.

    So 238.8, 11.29, 0.170 and 0.00299.
    """
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, digits - 1 - magnitude - (magnitude < 0))}f}"


def p_value(p: float) -> str:
    """Return a p-value with the digits that matter for a decision."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def significance(difference: object) -> str:
    """Return the mark of a difference: '**' for a corrected p < 0.01, '*' for one < 0.05, else ''."""
    if not isinstance(difference, Difference):
        return ""
    return "**" if difference.p_holm < 0.01 else "*" if difference.p_holm < 0.05 else ""


def _metric_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    return (*_mean_headings(comparison, key), f"{LEVEL_TEXT} interval{of_task(comparison, key)}")


def _mean_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    measure = comparison.measure(key.task, key.measure)
    return (f"{measure_words(measure)}{in_unit(measure)}{of_task(comparison, key)}",)


def _estimate_of(row: Row, key: ColumnKey) -> Estimate | Missing | None:
    result = row.of(key.task)
    return None if result is None else result.estimates.get(key.measure)


def _metric_cells(row: Row, key: ColumnKey, marks: PublishedMarks) -> tuple[str, ...]:
    estimate = _estimate_of(row, key)
    [mean] = _mean_cells(row, key, marks)
    if not isinstance(estimate, Estimate) or estimate.interval is None:
        return (mean, NOTHING)
    low, high = (amount(end, estimate.measure) for end in (estimate.interval.low, estimate.interval.high))
    return (mean, f"[{low}, {high}]")


def _mean_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    estimate = _estimate_of(row, key)
    if not isinstance(estimate, Estimate):
        return (reason(estimate),)
    std = "" if estimate.std is None else f" ± {amount(estimate.std, estimate.measure)}"
    return (f"{amount(estimate.mean, estimate.measure)}{std}",)


def _metric_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    prefix = "" if key.measure is None else f"{key.measure}_"
    fields: dict[str, Value] = {} if key.measure else {"metric": None}
    fields |= dict.fromkeys(f"{prefix}{name}" for name in ("mean", "std", "low", "high"))
    by_seed = [f"{prefix}seed{seed}" for seed in row.seeds]
    fields |= dict.fromkeys(by_seed)
    result, estimate = row.of(key.task), _estimate_of(row, key)
    if result is None or not isinstance(estimate, Estimate):
        return fields
    if key.measure is None and isinstance(result.run, RunResult):
        fields["metric"] = result.run.metric
    fields |= {f"{prefix}mean": estimate.mean, f"{prefix}std": estimate.std}
    fields |= zip(by_seed, estimate.by_seed, strict=True)
    if estimate.interval is not None:
        fields |= {f"{prefix}low": estimate.interval.low, f"{prefix}high": estimate.interval.high}
    return fields


def _metric_note(comparison: Comparison, keys: Keys) -> str:
    seeds = comparison.spec.seeds
    listed = ", ".join(str(seed) for seed in seeds)
    tasks = list(dict.fromkeys(key.task or comparison.spec.task for key in keys))
    several = len(comparison.spec.tasks) > 1
    units = "; ".join(
        _counted(comparison.estimates(task, None) or _all_estimates(comparison, keys, task))
        + (f" ({comparison.spec.title_of(task)})" if several else "")
        for task in tasks
    )
    if len(seeds) == 1:
        notes = [
            f"One seed ({listed}), {units}. The intervals ({LEVEL_TEXT}, bootstrap over test clips) are those of "
            "one training: the variation over seeds is not known."
        ]
    else:
        notes = [
            f"Mean ± standard deviation over {len(seeds)} seeds ({listed}), {units}. The intervals "
            f"({LEVEL_TEXT}) are from a bootstrap over test clips and seeds, corrected for the number of seeds "
            "(variances of the two-way layout, Student's t)."
        ]
    everything = [estimate for task in tasks for estimate in _all_estimates(comparison, keys, task)]
    if any(estimate.units != estimate.clips for estimate in everything):
        notes.append("Units of one clip are not independent, so clips are resampled, each with all its units.")
    lower = dict.fromkeys(
        f"'{measure_heading(comparison, key)}'"
        for key in keys
        if not comparison.measure(key.task, key.measure).higher_is_better
    )
    notes += [f"Lower is better: {', '.join(lower)}."] if lower else []
    notes += _measure_notes(comparison, keys)
    return " ".join(notes)


def _measure_notes(comparison: Comparison, keys: Keys) -> list[str]:
    """Explain the further measures: which units count, and which are not means over units."""
    fewer, whole = [], []
    for key in dict.fromkeys(ColumnKey("metric", key.measure, key.task) for key in keys if key.measure is not None):
        found, words = comparison.estimates(key.task, key.measure), measure_heading(comparison, key)
        if any(estimate.interval is None for estimate in found):
            whole.append(f"'{words}'")
        elif found and _counted(found) != _counted(comparison.estimates(key.task, None)):
            fewer.append(f"{_counted(found)} for '{words}'")
    notes = [f"Some measures are over fewer units: {', '.join(fewer)}."] if fewer else []
    if whole:
        notes.append(
            f"{', '.join(whole)}: computed over the whole test split, not a mean over its units, so there is a "
            "standard deviation over seeds but no interval."
        )
    return notes


def _all_estimates(comparison: Comparison, keys: Keys, task: str) -> list[Estimate]:
    mine = [key for key in keys if (key.task or comparison.spec.task) == task]
    return [estimate for key in mine for estimate in comparison.estimates(task, key.measure) if estimate.interval]


def _counted(estimates: Sequence[Estimate]) -> str:
    """Return what means are over: '80 test clips', or '300 test units of 80 clips'; several numbers with 'or'."""
    clips = " or ".join(str(count) for count in sorted({estimate.clips for estimate in estimates})) or "no"
    if all(estimate.units == estimate.clips for estimate in estimates):
        return f"{clips} test clips"
    units = " or ".join(str(count) for count in sorted({estimate.units for estimate in estimates}))
    return f"{units} test units of {clips} clips"


def _difference_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    of = of_task(comparison, key)
    measure = comparison.measure(key.task, key.measure)
    words = "Difference" if key.measure is None else f"Difference in {measure_words(measure)}"
    unit = " (points)" if measure.unit == PERCENT else in_unit(measure)
    return (f"{words}{unit}{of}", f"p (Holm){of}")


def _difference_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    result = row.of(key.task)
    if result is None:
        return (NOTHING, NOTHING)
    if result.is_baseline:
        return ("baseline", NOTHING)
    return _tested_cells(result.differences.get(key.measure))


def _tested_cells(difference: object) -> tuple[str, ...]:
    """Return the cells of a difference and of its p-value."""
    if not isinstance(difference, Difference):
        return (reason(difference), NOTHING)
    test = difference.test
    found, low, high = (change(value, difference.measure) for value in (test.difference, test.low, test.high))
    return (f"{found} [{low}, {high}]", p_value(difference.p_holm))


def _difference_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    result = row.of(key.task)
    difference = None if result is None else result.differences.get(key.measure)
    return _tested_fields(difference, "" if key.measure is None else f"{key.measure}_")


def _tested_fields(difference: object, prefix: str) -> dict[str, Value]:
    """Return the fields of a difference, empty ones if there is none."""
    names = (
        "difference", "difference_low", "difference_high", "difference_simultaneous_low",
        "difference_simultaneous_high", "p", "p_holm",
    )  # fmt: skip
    values: tuple[Value, ...] = (None,) * len(names)
    if isinstance(difference, Difference):
        test = difference.test
        values = (test.difference, test.low, test.high, *difference.simultaneous, test.p, difference.p_holm)
    return {f"{prefix}{name}": value for name, value in zip(names, values, strict=True)}


def _difference_note(comparison: Comparison, keys: Keys) -> str:
    over = "test clips and seeds" if len(comparison.spec.seeds) > 1 else "test clips (one seed: two trainings compared)"
    tested = [comparison.tested(key.task, key.measure) for key in keys]
    counts = [len(found) for found in tested]
    ratios = [
        (found.simultaneous[1] - found.test.difference) / (found.test.high - found.test.difference)
        for of_key in tested
        for found in of_key.values()
        if found.test.high > found.test.difference
    ]
    wider = f", {statistics.median(ratios):.1f} times as wide (median)" if ratios else ""
    named = {row.spec.baseline or comparison.spec.baseline for row in comparison.rows if row.spec.runs}
    labels: dict[str, str] = {}
    for row in comparison.rows:
        if row.spec.variant in named:
            labels.setdefault(row.spec.variant, f"'{row.spec.label}'")
    baselines = dict.fromkeys(labels.values())
    place = "" if len(named) == 1 else " of the same section" if len(baselines) == 1 else ", by section,"
    if len(keys) == 1:
        family = f"the {_comparisons(counts[0])} of this table"
    else:
        listed = ", ".join(
            f"{_comparisons(count)} of {measure_heading(comparison, key)}"
            for key, count in zip(keys, counts, strict=True)
        )
        family = f"all comparisons of one measure of one task in this table: {listed}"
    units = [comparison.measure(key.task, key.measure).unit for key in keys]
    fractions = " in percentage points" if set(units) == {PERCENT} else ""
    return (
        f"Differences to {' or '.join(baselines)}{place} are{fractions} with {LEVEL_TEXT} interval, "
        f"paired by test clip and seed. p: two-sided paired test over {over}, Holm-corrected for {family} "
        "(a variant listed twice is compared once); the intervals are not corrected. Simultaneous intervals (Šidák's "
        f"correction for the same comparisons) are in the CSV{wider}."
    )


def _reliance_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    assert key.condition is not None
    of, measure = of_task(comparison, key), comparison.measure(key.task, key.measure)
    words = "change" if key.measure is None else f"change in {measure_words(measure)}"
    unit = " (points)" if measure.unit == PERCENT else in_unit(measure)
    return (f"{comparison.spec.conditions[key.condition].title}: {words}{unit}{of}", f"p (Holm){of}")


def _reliance_of(row: Row, key: ColumnKey) -> object:
    assert key.condition is not None
    result = row.of(key.task)
    return None if result is None else result.reliance.get((key.condition, key.measure))


def _reliance_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    found = _reliance_of(row, key)
    if isinstance(found, NotApplicable):
        return (f"{NOTHING} ({found.reason})", NOTHING)
    return _tested_cells(found)


def _reliance_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    measure = "" if key.measure is None else f"{key.measure}_"
    return _tested_fields(_reliance_of(row, key), f"{RELIANCE}_{key.condition}_{measure}")


def _reliance_note(comparison: Comparison, keys: Keys) -> str:
    conditions = [comparison.spec.conditions[name] for key in keys if (name := key.condition) is not None]
    effects = dict.fromkeys(f"'{condition.title}': {condition.effect}" for condition in conditions)
    over = "test clips and seeds" if len(comparison.spec.seeds) > 1 else "test clips"
    return (
        "Changes under conditions: the trained model is evaluated once more on a disturbed test split, with the "
        f"thresholds of its checkpoint ({'; '.join(effects)}). Each is the measure under the condition minus the row's "
        f"own result without it, with {LEVEL_TEXT} interval, paired by test clip and seed; a row that does not read "
        f"the disturbed stream has none. p: two-sided paired test over {over}, Holm-corrected for all rows of one "
        "column."
    )


def _comparisons(count: int) -> str:
    return f"{count} comparison{'' if count == 1 else 's'}"


def _cost_column(heading: str, field: str, unit: float, note: str) -> Column:
    def count(row: Row, key: ColumnKey) -> int | None:
        result = row.of(key.task)
        if result is None or not isinstance(result.cost, Cost):
            return None
        return result.cost.others[field] if field in result.cost.others else getattr(result.cost, field, None)

    def cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
        value, result = count(row, key), row.of(key.task)
        return (reason(result and result.cost) if value is None else significant(value / unit),)

    return Column(
        reads=lambda _: Reads(cost=True),
        headings=lambda comparison, key: (heading + of_task(comparison, key),),
        cells=cells,
        fields=lambda row, key: {field: count(row, key)},
        note=lambda *_: note,
    )


def _setting_column(heading: str, field: str, note: Callable[[Comparison, Keys], str] = lambda *_: "") -> Column:
    def value(row: Row, key: ColumnKey) -> Value:
        result = row.of(key.task)
        return None if result is None or result.spec is None else result.spec.settings.get(field)

    def cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
        found = value(row, key)
        return (NOTHING if found is None else str(found),)

    return Column(
        reads=lambda _: Reads(),
        headings=lambda comparison, key: (heading + of_task(comparison, key),),
        cells=cells,
        fields=lambda row, key: {field: value(row, key)},
        note=note,
    )


def _rate_note(comparison: Comparison, keys: Keys) -> str:
    """State the learning rate of heads, and the rows with another rate than the baseline."""
    texts = []
    for key in keys:
        rows = [
            (row.spec.label, found.spec.settings)
            for row in comparison.rows
            if (found := row.of(key.task)) and found.spec
        ]
        base = comparison.baseline.of(key.task)
        common = base.spec.settings if base and base.spec else {}
        usual = common.get("learning_rate_head")
        text = f"the head's is {usual}"
        heads = dict.fromkeys((label, settings.get("learning_rate_head")) for label, settings in rows)
        others = [f"'{label}' ({rate})" for label, rate in heads if rate != usual]
        text += f", except in {', '.join(others)}" if others else " in every row"
        own = dict.fromkeys(
            f"'{label}'"
            for label, settings in rows
            if settings.get("learning_rate") not in (None, common.get("learning_rate"))
        )
        if own:
            text += f"; rows with another rate than the baseline's {common.get('learning_rate')}: {', '.join(own)}"
        texts.append(text + of_task(comparison, key))
    return (
        "Learning rate: the maximum of the schedule for the parameters below the head (– without such parameters); "
        + "; ".join(texts)
        + "."
    )


def _short_key(key: str) -> str:
    return key.rpartition(".")[2]


def _tuning_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    result = row.of(key.task)
    if result is None or result.tuning is None:
        return (NOTHING, NOTHING)
    tuning = result.tuning
    marks = {key: f" {EDGE[edge]}" for key, edge in tuning.at_edge.items()}
    chosen = [f"{_short_key(name)} {value}{marks.get(name, '')}" for name, value in tuning.values.items()]
    diverged = tuning.trials.count(None)
    return (f"{len(tuning.trials)}" + (f" ({diverged} diverged)" if diverged else ""), "; ".join(chosen))


def _tuning_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    result = row.of(key.task)
    fields: dict[str, Value] = dict.fromkeys(("trials", "trials_diverged", "chosen", "at_edge"))
    if result is None or result.tuning is None:
        return fields
    tuning = result.tuning
    chosen = "; ".join(f"{name}={value}" for name, value in tuning.values.items())
    edges = "; ".join(f"{name}={edge}" for name, edge in tuning.at_edge.items())
    diverged = tuning.trials.count(None)
    return {"trials": len(tuning.trials), "trials_diverged": diverged, "chosen": chosen, "at_edge": edges}


def _tuning_note(comparison: Comparison, keys: Keys) -> str:
    found = [result.tuning for key in keys for result in comparison.results(key.task) if result.tuning is not None]
    if not found:
        return "No hyperparameters were searched (`tuning: none`)."
    trials = " or ".join(str(count) for count in sorted({len(tuning.trials) for tuning in found}))
    seeds = sorted({seed for tuning in found for seed in tuning.seeds})
    trained = f"{'seed' if len(seeds) == 1 else 'the seeds'} {', '.join(map(str, seeds))}"
    note = (
        f"Every row was tuned alike on each task: {trials} trials of the values that its method declares, drawn from "
        f"one sequence, each trained with {trained}, not reported, and compared on validation."
    )
    if any(tuning.at_edge for tuning in found):
        note += f" {EDGE['highest']} and {EDGE['lowest']}: no higher or lower value was tried, so one may be better."
    return note


def _gap(row: Row, key: ColumnKey) -> tuple[float, float] | None:
    """Return the mean over seeds of the selected value on validation, and by how much the test split's is lower."""
    run = _run(row.of(key.task))
    if not isinstance(run, RunResult):
        return None
    validation = statistics.fmean(record.best_value for record in run.records)
    return validation, validation - float(run.scores.mean())


def _gap_headings(comparison: Comparison, key: ColumnKey) -> tuple[str, ...]:
    measure, of = comparison.measure(key.task), of_task(comparison, key)
    points = " (points)" if measure.unit == PERCENT else in_unit(measure)
    return (f"Validation{in_unit(measure)}{of}", f"Validation − test{points}{of}")


def _gap_cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
    found, run = _gap(row, key), _run(row.of(key.task))
    if found is None or not isinstance(run, RunResult):
        return (reason(run), NOTHING)
    measure = run.definitions.get(run.metric, Measure(run.metric))
    return (amount(found[0], measure), change(found[1], measure))


def _gap_fields(row: Row, key: ColumnKey) -> dict[str, Value]:
    validation, gap = _gap(row, key) or (None, None)
    return {"validation": validation, "validation_gap": gap}


def _gap_note(comparison: Comparison, keys: Keys) -> str:
    names = dict.fromkeys(measure_words(comparison.measure(key.task)) for key in keys)
    return (
        f"Validation: mean over seeds of the {' and '.join(names)} that selected each epoch. It is higher than on the "
        "test split in part because it is the best of several epochs, and where values were searched, of trials."
    )


def _measured_column(heading: str, field: str, measure: Callable[[tuple[TrainingRecord, ...]], float | None]) -> Column:
    def value(row: Row, key: ColumnKey) -> float | None:
        run = _run(row.of(key.task))
        return measure(run.records) if isinstance(run, RunResult) else None

    def cells(row: Row, key: ColumnKey, _: PublishedMarks) -> tuple[str, ...]:
        run = _run(row.of(key.task))
        if not isinstance(run, RunResult):
            return (reason(run),)
        measured = value(row, key)
        return ("not measured" if measured is None else significant(measured, 3),)

    return Column(
        reads=lambda _: Reads(records=True),
        headings=lambda comparison, key: (heading + of_task(comparison, key),),
        cells=cells,
        fields=lambda row, key: {field: value(row, key)},
        note=_measured_note,
    )


def _measured_note(comparison: Comparison, keys: Keys) -> str:
    runs = [result.run for key in keys for result in comparison.results(key.task)]
    devices = sorted({record.device for run in runs if isinstance(run, RunResult) for record in run.records})
    machines = {
        str(machine["processor"])
        for run in runs
        if isinstance(run, RunResult)
        for record in run.records
        if record.device == "cpu" and (machine := record.values.get("machine") or {}).get("processor")
    }
    where = (", ".join(devices) or "no device") + (f" ({', '.join(sorted(machines))})" if machines else "")
    return (
        f"Step time and memory were measured during the trainings of this table on {where}, while other jobs "
        "ran on the machine: they only allow a rough comparison. Step time is the median over optimizer steps, then "
        "over seeds; memory is the maximum over seeds, on a CPU that of the whole process with libraries and data."
        + "".join(f" {_MEASURED[name]}" for name in dict.fromkeys(key.name for key in keys) if name in _MEASURED)
    )


_MEASURED = {
    "throughput": "Throughput is the clips of a full optimizer step over the step time (questions, where batches are "
    "made of them).",
    "adapter_size": "The adapter file holds all that a training changes, the head included, and not the frozen "
    "backbone (1 MB = 10⁶ bytes).",
}


def _run(result: Result | None) -> RunResult | Missing | None:
    return None if result is None else result.run


def _step_milliseconds(records: tuple[TrainingRecord, ...]) -> float:
    return 1000 * statistics.median(record.step_seconds_median for record in records)


def _peak_gibibytes(records: tuple[TrainingRecord, ...]) -> float | None:
    known = [record.peak_memory_bytes for record in records if record.peak_memory_bytes is not None]
    return max(known) / 2**30 if known else None


def _clips_per_second(records: tuple[TrainingRecord, ...]) -> float | None:
    clips = _recorded(records, "units_per_step")
    return None if clips is None else clips / statistics.median(record.step_seconds_median for record in records)


def _adapter_megabytes(records: tuple[TrainingRecord, ...]) -> float | None:
    size = _recorded(records, "checkpoint_bytes")
    return None if size is None else size / 1e6


def _recorded(records: tuple[TrainingRecord, ...], key: str) -> int | None:
    """Return a number that all seeds have in common; None if it was not recorded."""
    found = [value for record in records if isinstance(value := record.values.get(key), int)]
    return max(found, default=None)


def published_source(published: PublishedNumber) -> str:
    """Return the footnote of a published number."""
    return f"{published.method}, {published.encoders}, {published.table}. Source: {published.source}."


def _published_cells(row: Row, _: ColumnKey, marks: PublishedMarks) -> tuple[str, ...]:
    cells = [
        f"{_data_set(published, marks)}{_METRICS.get(published.metric, published.metric)} {published.value}"
        f"{_selection(published)} [{marks.numbers[published.id]}]"
        for published in row.spec.published
    ]
    return ("; ".join(cells) or NOTHING,)


def _data_set(published: PublishedNumber, marks: PublishedMarks) -> str:
    """Name the data set if the table has the metric of several: 'AVS-S4 '."""
    return f"{published.table.upper().replace('_', '-')} " if published.metric in marks.ambiguous else ""


_COSTS = ("adapter GFLOPs", "trainable parameters (M)")


def _selection(published: PublishedNumber) -> str:
    """How the checkpoint of a published result was selected; costs have no selection."""
    return "" if published.metric in _COSTS else f", {published.selection or 'selection not stated'}"


def _published_fields(row: Row, _: ColumnKey) -> dict[str, Value]:
    keys = ("id", "metric", "value", "selection", "source")
    return {
        f"published_{key}": " | ".join(getattr(published, key) for published in row.spec.published) or None
        for key in keys
    }


def reason(result: object) -> str:
    """Return the cell of a result that is not there."""
    return result.reason if isinstance(result, Missing) else NOTHING


# Names in config/published.csv and how they are printed.
_METRICS = {"miou": "mIoU", "fscore": "F-score"}
_PARAMETERS = "Trainable and total parameters in millions (M); total includes the frozen backbone and encoders."
_MULTIPLY_ADDS = (
    "Costs count each multiply-add once, for one clip at batch size 1 (1 GMAC = 10⁹ multiply-adds). Adapter GMACs "
    "are the difference to the backbone without adapters on both streams, total GMACs are all operations of a clip. "
    "Normalisation layers are counted as in fvcore; activations, additions, gates and channel scales are not counted."
)
_WITHOUT_NORMS = (
    "'Without norms' counts only the multiply-adds of matrix products and convolutions, as the paper does for its 11 "
    "and 217 GFLOPs. The other columns count as fvcore does, with 5 per element for a layer norm and 2 for a batch "
    "norm. Softmax, activations, additions and gates are in neither."
)
_CLASSIFIER = (
    "'Classifier' is the part of the total parameters that belongs to the pretraining classifier of the backbone."
)
_IMAGE = (
    "'One image' is the number of multiply-adds of the backbone for one image, as fvcore counts them, including the "
    "classifier if it is counted."
)


COLUMNS: dict[str, Column] = {
    "backbone": _setting_column("Backbone", "backbone"),
    "latents": _setting_column("Latent tokens", "latents"),
    "direction": _setting_column("Direction", "direction"),
    "position": _setting_column("Position", "position"),
    "size": _setting_column("Size", "size"),
    "learning_rate": _setting_column("Learning rate", "learning_rate", _rate_note),
    "tuning": Column(
        reads=lambda _: Reads(),
        headings=lambda comparison, key: (
            f"Trials{of_task(comparison, key)}",
            f"Chosen{of_task(comparison, key)}",
        ),
        cells=_tuning_cells,
        fields=_tuning_fields,
        note=_tuning_note,
    ),
    "validation": Column(
        reads=lambda _: Reads(records=True),
        headings=_gap_headings,
        cells=_gap_cells,
        fields=_gap_fields,
        note=_gap_note,
    ),
    "metric": Column(
        lambda key: Reads(measures=frozenset({key.measure})),
        _metric_headings,
        _metric_cells,
        _metric_fields,
        _metric_note,
    ),
    "mean": Column(
        lambda key: Reads(measures=frozenset({key.measure})),
        _mean_headings,
        _mean_cells,
        _metric_fields,
        _metric_note,
    ),
    "difference": Column(
        lambda key: Reads(differences=frozenset({key.measure})),
        _difference_headings,
        _difference_cells,
        _difference_fields,
        _difference_note,
    ),
    RELIANCE: Column(
        lambda key: Reads(reliance=frozenset({(str(key.condition), key.measure)})),
        _reliance_headings,
        _reliance_cells,
        _reliance_fields,
        _reliance_note,
    ),
    "trainable_params": _cost_column("Trainable params (M)", "trainable_params", 1e6, _PARAMETERS),
    "total_params": _cost_column("Total params (M)", "total_params", 1e6, _PARAMETERS),
    "adapter_gmacs": _cost_column("Adapter GMACs", "adapter_macs", 1e9, _MULTIPLY_ADDS),
    "total_gmacs": _cost_column("Total GMACs", "total_macs", 1e9, _MULTIPLY_ADDS),
    "adapter_gmacs_without_norms": _cost_column(
        "Adapter GMACs without norms", "adapter_macs_without_norms", 1e9, _WITHOUT_NORMS
    ),
    "total_gmacs_without_norms": _cost_column(
        "Total GMACs without norms", "total_macs_without_norms", 1e9, _WITHOUT_NORMS
    ),
    "classifier_params": _cost_column("Classifier (M)", "classifier_params", 1e6, _CLASSIFIER),
    "backbone_gmacs": _cost_column("One image (GMACs)", "backbone_macs", 1e9, _IMAGE),
    "step_time": _measured_column("Step (ms)", "step_milliseconds_median", _step_milliseconds),
    "throughput": _measured_column("Throughput (clips/s)", "clips_per_second", _clips_per_second),
    "peak_memory": _measured_column("Peak memory (GiB)", "peak_memory_gibibytes", _peak_gibibytes),
    "adapter_size": _measured_column("Adapter file (MB)", "adapter_megabytes", _adapter_megabytes),
    "published": Column(
        reads=lambda _: Reads(),
        headings=lambda *_: ("Published",),
        cells=_published_cells,
        fields=_published_fields,
        note=lambda *_: (
            "Published numbers are copied from their sources, with the data and protocol of the source; none was "
            "measured here."
        ),
    ),
}

TEXT = ("backbone", "direction", "position", "size", "tuning", "published")
"""Columns of text, aligned to the left."""

ALWAYS = ("metric", "difference", "trainable_params", "total_params", "adapter_gmacs", "total_gmacs", "published")
"""Columns whose fields are in the CSV of a table with results even if the table does not print them.

Measured times are excluded: they differ between executions.
"""
