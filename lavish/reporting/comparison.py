"""Comparison of a table's rows: results of all seeds, intervals, and paired tests against the baseline.

Tables and figures both use it, so they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from lavish.config.measures import Measure
from lavish.config.merging import with_values
from lavish.config.schema import Config
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning.tables.schema import ColumnName, FigureConfig, tasks_of
from lavish.reporting.origins import check_record, differences
from lavish.reporting.records import (
    Cost,
    MissingResult,
    RunResult,
    read_cost,
    read_run,
    seed_directory,
    unit_order,
)
from lavish.reporting.searches import Tuning, read_tuning
from lavish.reporting.statistics import (
    Interval,
    PairedTest,
    Scores,
    clip_values,
    holm,
    interval,
    paired_test,
    simultaneous,
)

Compared = tuple[Path, Path | None]
"""Folders of a run and of the run that it is compared with."""
_Key = TypeVar("_Key")
LEVEL = 0.95
LEVEL_TEXT = f"{100 * LEVEL:g} %"


class PublishedNumber(Config):
    """A line of config/published.csv."""

    id: str
    table: str
    method: str
    encoders: str
    metric: str
    value: str
    selection: str = ""
    source: str

    model_config = Config.model_config | {"coerce_numbers_to_str": True}


class RunSpec(Config):
    """The run of a variant on one task."""

    folder: Path
    select_on: str = "val"
    deviations: list[str] = []
    """The published practices that change numbers and that the run replicates, apart from its selection."""
    settings: dict[str, str | int | float | None] = {}
    """Values of the run's configuration that columns print."""
    config: dict[str, Any] = {}
    """The resolved configuration without places, which the records must agree with."""
    streams: list[str] = ["visual", "audio"]
    """Those that predictions may depend on."""


class ConditionSpec(Config):
    """A condition that runs are evaluated under.

    `effect` says for notes what it does to the disturbed `stream`; `folder` has the evaluations of a training, which
    state the same `definition`.
    """

    title: str
    stream: str
    effect: str
    folder: str
    definition: dict[str, Any]


class RowSpec(Config):
    """One row of a table: a variant, its run on each of its tasks, and the published numbers beside it.

    `task` is the task of columns that name none, `baseline` the variant it is compared with, if not the table's.
    `missing` says why a run cannot be made on this machine. A row without runs has only published numbers.
    """

    variant: str
    label: str
    task: str
    baseline: str | None = None
    runs: dict[str, RunSpec] = {}
    missing: dict[str, str] = {}
    published: list[PublishedNumber] = []


class SectionSpec(Config):
    """Rows under one heading."""

    title: str
    rows: list[RowSpec] = Field(min_length=1)


class TableSpec(Config):
    """A table resolved by the workflow: its rows with their run directories, ready to be read and written.

    `titles` are the short names of tasks, `measures` the metric of each task, first, and its further measures.
    """

    name: str
    title: str
    description: str = ""
    task: str
    titles: dict[str, str] = {}
    measures: dict[str, list[Measure]] = {}
    baseline: str
    columns: list[ColumnName] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    sections: list[SectionSpec] = Field(min_length=1)
    figures: dict[str, FigureConfig] = {}
    conditions: dict[str, ConditionSpec] = {}
    facts: dict[str, str] = {}

    @property
    def tasks(self) -> list[str]:
        """The tasks whose results or costs the table prints, the main one first."""
        return tasks_of(self.columns, self.task)

    def measure(self, task: str, name: str | None) -> Measure:
        """Return what a measure of a task is (None: its metric)."""
        known = self.measures.get(task, [])
        if name is None:
            return known[0] if known else Measure("metric")
        return next((measure for measure in known if measure.name == name), Measure(name))

    def title_of(self, task: str) -> str:
        """Return the short name of a task."""
        return self.titles.get(task, task.replace("_", " "))


@dataclass(frozen=True)
class Missing:
    """Replaces a result that does not exist, and says why."""

    reason: str


_NO_UNITS = Missing("no test units")


@dataclass(frozen=True)
class Estimate:
    """A metric or measure of a run over its seeds.

    `interval` is None for a number of the whole split that is not a mean over units, which cannot be resampled; then
    `mean` and `std` (None for one seed) are over seeds. `by_seed` are the seeds' means. `units` and `clips` are the
    numbers that the mean is over.
    """

    measure: Measure
    mean: float
    std: float | None
    interval: Interval | None
    by_seed: tuple[float, ...]
    units: int = 0
    clips: int = 0

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends of the interval; the mean where there is none."""
        return (self.interval.low, self.interval.high) if self.interval else (self.mean, self.mean)


@dataclass(frozen=True)
class NotApplicable:
    """Replaces a result that cannot exist, and says why."""

    reason: str


@dataclass(frozen=True)
class Difference:
    """The paired test of a row against the baseline, with p-value and interval corrected over all rows of the table.

    Or, of a row under a condition, against the row itself.
    """

    measure: Measure
    test: PairedTest
    p_holm: float
    simultaneous: tuple[float, float]


@dataclass(frozen=True)
class Result:
    """The results of a row for one task; results that no column needs are None or absent.

    The keys of `estimates` and `differences` are measures; None is the task's own metric. `spec` is None if the run
    cannot be made on this machine.
    """

    spec: RunSpec | None
    baseline: Path | None
    """Folder of the run that this one is compared with."""
    run: RunResult | Missing | None
    estimates: dict[str | None, Estimate | Missing]
    differences: dict[str | None, Difference | Missing]
    cost: Cost | Missing | None
    tuning: Tuning | None = None
    """The hyperparameter search that the values of the run come from, if it has one."""
    disturbed: dict[str, RunResult | Missing | NotApplicable] = field(default_factory=dict)
    """The run under each condition."""
    reliance: dict[tuple[str, str | None], Difference | Missing | NotApplicable] = field(default_factory=dict)
    """By condition and measure, the difference to the run without the condition."""
    reference: dict[str | None, Estimate | Missing] = field(default_factory=dict)
    """The baseline's estimates."""

    @property
    def is_baseline(self) -> bool:
        return self.spec is not None and self.spec.folder == self.baseline

    @property
    def interval(self) -> Interval | None:
        """The interval of the task's own metric, if there is a result."""
        estimate = self.estimates.get(None)
        return estimate.interval if isinstance(estimate, Estimate) else None


@dataclass(frozen=True)
class Summary:
    """What a row gives over all tasks of a table (:mod:`lavish.reporting.across_tasks`), estimates with their ends.

    `probability_of_improvement` is None for a baseline, `ppt` if a measure is no fraction. `ranked` rows have a rank.
    """

    mean_rank: tuple[float, float, float]
    probability_of_improvement: tuple[float, float, float] | None
    ppt: float | None
    ranked: int


@dataclass(frozen=True)
class Row:
    """One row with its results by task, and their summary if the table prints one."""

    spec: RowSpec
    results: dict[str, Result]
    seeds: tuple[int, ...]
    summary: Summary | Missing | None = None

    def of(self, task: str | None) -> Result | None:
        """Return the results for a task (None: the row's own), or None if it does not apply to the row."""
        return self.results.get(task or self.spec.task)

    @property
    def selected_on_test(self) -> bool:
        return any(run.select_on == "test" for run in self.spec.runs.values())

    @property
    def origins(self) -> list[dict[str, Any]]:
        """What the trainings and evaluations of the row were made with."""
        runs = (run for result in self.results.values() for run in (result.run, *result.disturbed.values()))
        return [origin for run in runs if isinstance(run, RunResult) for origin in run.origins]

    @property
    def deviations(self) -> list[str]:
        """The published practices that the row's runs replicate."""
        return list(dict.fromkeys(text for run in self.spec.runs.values() for text in run.deviations))


@dataclass(frozen=True)
class Comparison:
    """All rows of a table by section; a variant that occurs in several sections has the same numbers in each."""

    spec: TableSpec
    sections: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for _, rows in self.sections for row in rows)

    @property
    def differences(self) -> list[str]:
        """Notes on what the rows were made with, where they differ."""
        return differences([(row.spec.label, row.origins) for row in self.rows])

    @property
    def baseline(self) -> Row:
        return next(row for row in self.rows if row.spec.variant == self.spec.baseline)

    def results(self, task: str | None = None) -> list[Result]:
        """Return the results of all rows for a task (None: the main one)."""
        found = (row.results.get(task or self.spec.task) for row in self.rows)
        return [result for result in found if result is not None]

    def measure(self, task: str | None = None, name: str | None = None) -> Measure:
        """Return what a measure of a task is (None: its metric)."""
        return self.spec.measure(task or self.spec.task, name)

    def estimates(self, task: str | None, measure: str | None) -> list[Estimate]:
        """Return all existing estimates of a measure."""
        found = (result.estimates.get(measure) for result in self.results(task))
        return [estimate for estimate in found if isinstance(estimate, Estimate)]

    def runs(self, task: str | None) -> dict[str, Result]:
        """Return the runs of a task by the label of the first row that has each, with the section if that is not clear.

        A run that sections compare with different baselines is there once for each.
        """
        found: dict[tuple[Path, Path | None], tuple[str, str, Result]] = {}
        for title, rows in self.sections:
            for row in rows:
                result = row.results.get(task or self.spec.task)
                if result is not None and result.spec is not None:
                    found.setdefault((result.spec.folder, result.baseline), (row.spec.label, title, result))
        labels = [label for label, _, _ in found.values()]
        places = [(label, title) for label, title, _ in found.values()]
        named: dict[str, Result] = {}
        for (folder, _), (label, title, result) in found.items():
            if labels.count(label) > 1:
                label = f"{label} ({title if places.count((label, title)) == 1 else folder.name})"
            named[label] = result
        return named

    def tested(self, task: str | None, measure: str | None) -> dict[str, Difference]:
        """Return the comparisons of runs with the baseline by the label of each run."""
        found = {label: result.differences.get(measure) for label, result in self.runs(task).items()}
        return {label: difference for label, difference in found.items() if isinstance(difference, Difference)}


def parse_spec(spec: dict[str, Any]) -> TableSpec:
    """Validate a table made by the workflow; LavishError names the invalid key."""
    table = parse(TableSpec, spec, f"table '{spec.get('name', '?')}'")
    runs: dict[tuple[str, str], Path] = {}
    for section in table.sections:
        for row in section.rows:
            for task, run in row.runs.items():
                if runs.setdefault((row.variant, task), run.folder) != run.folder:
                    raise LavishError(
                        f"table '{table.name}': variant '{row.variant}' has two runs, {runs[row.variant, task]} and "
                        f"{run.folder}: give one of them another name"
                    )
    if table.baseline not in {variant for variant, _ in runs}:
        raise LavishError(f"table '{table.name}': key 'baseline': no row has the variant '{table.baseline}'")
    return table


@dataclass(frozen=True)
class Reads:
    """The results that a table needs from the runs of one task; a table of costs needs no training.

    `measures` are estimated, those in `differences` are also tested (None: the task's own metric, which is always
    estimated). `reliance` are conditions, each with a measure that is tested under it. `records`: whether records of
    trainings are read.
    """

    measures: frozenset[str | None] = frozenset()
    differences: frozenset[str | None] = frozenset()
    reliance: frozenset[tuple[str, str | None]] = frozenset()
    records: bool = False
    cost: bool = False

    def __or__(self, other: Reads) -> Reads:
        return Reads(
            self.measures | other.measures,
            self.differences | other.differences,
            self.reliance | other.reliance,
            self.records or other.records,
            self.cost or other.cost,
        )


def compare(table: TableSpec, reads: Mapping[str, Reads]) -> Comparison:
    """Read and compare the rows of `table`; `reads` says what is read for each task."""
    tasks = dict.fromkeys(task for section in table.sections for row in section.rows for task in row.runs)
    # Columns without a task use the row's own.
    results = {task: _compare_task(table, task, reads.get(task, reads.get(table.task, Reads()))) for task in tasks}

    def compared(row: RowSpec) -> Row:
        absent = {task: _absent(Missing(reason), reads.get(task, Reads())) for task, reason in row.missing.items()}
        present = {task: results[task][run.folder, _baseline_of(table, row, task)] for task, run in row.runs.items()}
        return Row(row, present | absent, tuple(table.seeds))

    return Comparison(table, tuple((section.title, tuple(map(compared, section.rows))) for section in table.sections))


def _baseline_of(table: TableSpec, row: RowSpec, task: str) -> Path | None:
    """Return the folder of the run that a row is compared with; None if that row is not run on the task."""
    rows = (other for section in table.sections for other in section.rows)
    wanted = row.baseline or table.baseline
    return next((other.runs[task].folder for other in rows if other.variant == wanted and task in other.runs), None)


def _absent(reason: Missing, reads: Reads) -> Result:
    """Return the placeholder of a run that cannot be made on this machine."""
    measures = reads.measures | reads.differences | {None}
    return Result(
        spec=None,
        baseline=None,
        run=reason,
        estimates=dict.fromkeys(measures, reason),
        differences=dict.fromkeys(reads.differences, reason),
        cost=reason,
        reliance=dict.fromkeys(reads.reliance, reason),
    )


def _compare_task(table: TableSpec, task: str, reads: Reads) -> dict[Compared, Result]:
    """Return the results of all runs of one task, by folder and baseline: variants of equal configuration share one."""
    rows = [row for section in table.sections for row in section.rows if task in row.runs]
    planned = {row.runs[task].folder: row.runs[task] for row in rows}
    searches = {folder: read_tuning(folder) for folder, spec in planned.items() if spec.config.get("tuning")}
    specs = {folder: _with_choice(spec, searches.get(folder)) for folder, spec in planned.items()}
    pairs = list(dict.fromkeys((row.runs[task].folder, _baseline_of(table, row, task)) for row in rows))
    runs: dict[Path, RunResult | Missing] = {}
    measures = reads.measures | reads.differences | {None}
    if reads.records or reads.measures or reads.differences or reads.reliance:
        runs = {folder: _read_run(spec, table, task) for folder, spec in specs.items()}
        _check_metrics(table, task, runs)
    estimates = {
        folder: {name: _estimate(run, name, table.measure(task, name)) for name in measures}
        for folder, run in runs.items()
    }
    disturbed = {
        name: {folder: _read_disturbed(spec, table, name, runs[folder]) for folder, spec in specs.items()}
        for name in {condition for condition, _ in reads.reliance}
    }
    reliance = {
        (name, measure): _reliance(runs, disturbed[name], measure, table.measure(task, measure))
        for name, measure in reads.reliance
    }
    differences = {
        measure: _differences(runs, pairs, measure, table.measure(task, measure)) for measure in reads.differences
    }
    costs = {folder: _read_cost(folder) if reads.cost else None for folder in specs}
    return {
        pair: Result(
            spec=specs[pair[0]],
            baseline=pair[1],
            run=runs.get(pair[0]),
            estimates=estimates.get(pair[0], {}),
            differences={measure: found[pair] for measure, found in differences.items() if pair in found},
            cost=costs[pair[0]],
            reference={} if pair[1] is None else estimates.get(pair[1], {}),
            tuning=searches.get(pair[0]),
            disturbed={name: found[pair[0]] for name, found in disturbed.items()},
            reliance={key: found[pair[0]] for key, found in reliance.items()},
        )
        for pair in pairs
    }


def _with_choice(spec: RunSpec, tuning: Tuning | None) -> RunSpec:
    """Return a run with the values that its search has chosen, in its configuration and in what columns print."""
    if tuning is None:
        return spec
    settings = dict(spec.settings)
    for key, value in tuning.values.items():
        name = key.rpartition(".")[2]
        printed = {"lr_adapter": "learning_rate", "lr_head": "learning_rate_head"}.get(name, name)
        if settings.get(printed) is not None:
            settings[printed] = value
        elif str(settings.get("size")).split(" ")[0] == name:
            settings["size"] = f"{name} {value}"
    return spec.model_copy(update={"config": with_values(spec.config, tuning.values), "settings": settings})


def _read_run(spec: RunSpec, table: TableSpec, task: str) -> RunResult | Missing:
    try:
        run = read_run(spec.folder, table.seeds)
    except MissingResult as error:
        return Missing(f"not run: {error.short} is missing")
    for record in run.records:
        check_record(record, seed_directory(spec.folder, record.seed), spec.config)
    selected_on = run.records[0].selected_on
    if selected_on != spec.select_on:
        raise LavishError(
            f"{spec.folder}: the record's key 'selected_on' is '{selected_on}', but the table says "
            f"'{spec.select_on}': the folder holds another run, remove it and run again"
        )
    for planned in table.measures.get(task, []):
        if (evaluated := run.definitions.get(planned.name, planned)) != planned:
            raise LavishError(
                f"{spec.folder}: '{planned.name}' was evaluated as {evaluated}, but the task now has {planned}: remove "
                "the folder and run again"
            )
    return run


def _read_cost(run: Path) -> Cost | Missing:
    try:
        return read_cost(run)
    except MissingResult as error:
        return Missing(f"not run: {error.short} is missing")


def _check_metrics(table: TableSpec, task: str, runs: Mapping[Path, RunResult | Missing]) -> None:
    metrics = {run.metric: run.directory for run in runs.values() if isinstance(run, RunResult)}
    if len(metrics) > 1:
        listed = ", ".join(f"'{metric}' ({directory})" for metric, directory in sorted(metrics.items()))
        raise LavishError(f"table '{table.name}': rows of task '{task}' have different metrics, {listed}")


def unit_scores(run: RunResult, measure: str | None) -> Scores | None:
    """Return (seeds, units) scores of a measure; None for a number of the whole split that is not a mean over units."""
    return run.scores if measure is None else run.columns.get(measure)


def _estimate(run: RunResult | Missing, measure: str | None, definition: Measure) -> Estimate | Missing:
    if isinstance(run, Missing):
        return run
    if measure is not None and measure not in run.measures:
        return _NO_UNITS
    scores = unit_scores(run, measure)
    if scores is None:
        assert measure is not None
        numbers = np.array(run.measures[measure])
        std = float(numbers.std(ddof=1)) if len(numbers) > 1 else None
        return Estimate(definition, float(numbers.mean()), std, None, run.measures[measure])
    counted = ~np.isnan(scores)
    values = clip_values(scores, run.clips)
    if values.shape[1] < 2:
        return Missing("units of only one test clip")
    found = interval(values, LEVEL, limits=definition.limits)
    by_seed = tuple(values.mean(axis=1).tolist())
    return Estimate(definition, found.mean, found.std, found, by_seed, int(counted.any(axis=0).sum()), values.shape[1])


def _differences(
    runs: Mapping[Path, RunResult | Missing], pairs: Sequence[Compared], measure: str | None, definition: Measure
) -> dict[Compared, Difference | Missing]:
    """Test every run once against its baseline, and correct over all tests."""
    tests: dict[Compared, PairedTest | Missing] = {}
    for pair in pairs:
        folder, baseline = pair
        if folder == baseline:
            continue
        run = runs[folder]
        reference = runs[baseline] if baseline is not None else Missing("does not apply to this task")
        if isinstance(run, Missing):
            tests[pair] = run
        elif isinstance(reference, Missing):
            tests[pair] = Missing(f"not compared: baseline {reference.reason}")
        else:
            tests[pair] = _test(run, reference, measure)
    return _corrected(tests, definition)


def _read_disturbed(
    spec: RunSpec, table: TableSpec, name: str, run: RunResult | Missing
) -> RunResult | Missing | NotApplicable:
    """Read a run under a condition; LavishError if the evaluations were made under another one."""
    condition = table.conditions[name]
    if condition.stream not in spec.streams:
        return NotApplicable({"audio": "hears nothing", "visual": "sees nothing"}[condition.stream])
    if isinstance(run, Missing):
        return run
    try:
        disturbed = read_run(spec.folder, table.seeds, condition.folder)
    except MissingResult as error:
        return Missing(f"not run: {error.short} is missing")
    for seed, origin in zip(table.seeds, disturbed.origins[len(table.seeds) :], strict=True):
        stated = dict(origin.get("condition") or {})
        stated["condition"] = {key: value for key, value in (stated.get("condition") or {}).items() if key != "title"}
        if stated != condition.definition:
            raise LavishError(
                f"{seed_directory(spec.folder, seed) / condition.folder / 'metrics.json'}: key 'origin.condition' is "
                f"{origin.get('condition')}, but the folder is for {condition.definition}: remove it and evaluate again"
            )
    return disturbed


def _reliance(
    runs: Mapping[Path, RunResult | Missing],
    disturbed: Mapping[Path, RunResult | Missing | NotApplicable],
    measure: str | None,
    definition: Measure,
) -> dict[Path, Difference | Missing | NotApplicable]:
    """Test every run once under a condition against itself without it, and correct over all tests."""
    tests: dict[Path, PairedTest | Missing] = {}
    inapplicable: dict[Path, NotApplicable] = {}
    for folder, under in disturbed.items():
        run = runs[folder]
        if isinstance(under, NotApplicable):
            inapplicable[folder] = under
        elif isinstance(under, RunResult) and isinstance(run, RunResult):
            tests[folder] = _test(under, run, measure, "without the condition")
        elif isinstance(under, Missing):
            tests[folder] = under
    return {**_corrected(tests, definition), **inapplicable}


def _corrected(tests: Mapping[_Key, PairedTest | Missing], definition: Measure) -> dict[_Key, Difference | Missing]:
    """Correct p-values and intervals over all tests that were made."""
    made = {key: test for key, test in tests.items() if isinstance(test, PairedTest)}
    missing = {key: test for key, test in tests.items() if isinstance(test, Missing)}
    corrected = holm([test.p for test in made.values()])
    compared = {
        key: Difference(definition, test, p, ends)
        for (key, test), p, ends in zip(made.items(), corrected, simultaneous([*made.values()], LEVEL), strict=True)
    }
    return compared | missing


def _test(
    run: RunResult, reference: RunResult, measure: str | None, other: str = "than the baseline"
) -> PairedTest | Missing:
    if measure is not None and not (measure in run.measures and measure in reference.measures):
        return _NO_UNITS
    scores, baseline = unit_scores(run, measure), unit_scores(reference, measure)
    if scores is None or baseline is None:
        return Missing("not tested: not a mean over test units")
    order = unit_order(run.clips, reference.clips)
    if order is None:
        return Missing(f"not compared: other test clips {other}")
    baseline = baseline[:, order]
    if not np.array_equal(np.isnan(scores), np.isnan(baseline)):
        return Missing(f"not compared: other test units {other}")
    values = clip_values(scores, run.clips)
    if values.shape[1] < 2:
        return Missing("units of only one test clip")
    return paired_test(values, clip_values(baseline, run.clips), LEVEL)
