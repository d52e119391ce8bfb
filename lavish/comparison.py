"""The rows of a table, compared: results of all seeds, intervals, and paired tests against the baseline.

What a table prints and what a figure draws both come from here, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from lavish.config import Config, FigureConfig, parse
from lavish.errors import LavishError
from lavish.records import Cost, MissingResult, RunResult, read_cost, read_run, unit_order
from lavish.statistics import Interval, PairedTest, holm, interval, paired_test

LEVEL = 0.95
LEVEL_TEXT = f"{100 * LEVEL:g} %"
# Every metric of the tasks (accuracy, mIoU, F-score) is a share.
_LIMITS = (0.0, 1.0)


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


class RowSpec(Config):
    """One row of a table: a variant, its run directory and the published numbers beside it."""

    variant: str
    label: str
    run: Path
    published: list[PublishedNumber] = []
    select_on: str = "val"
    departures: list[str] = []
    """What of published practice that changes numbers the run replicates, beside its selection."""
    settings: dict[str, str | int | None] = {}
    """What columns print of the run's configuration."""


class SectionSpec(Config):
    """Rows under one heading."""

    title: str
    rows: list[RowSpec] = Field(min_length=1)


class TableSpec(Config):
    """A table resolved by the workflow: its rows with their run directories, ready to be read and written."""

    name: str
    title: str
    description: str = ""
    task: str
    baseline: str
    columns: list[str] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    sections: list[SectionSpec] = Field(min_length=1)
    figures: dict[str, FigureConfig] = {}
    facts: dict[str, str] = {}


@dataclass(frozen=True)
class Missing:
    """Stands where a result would, and says why there is none."""

    reason: str


@dataclass(frozen=True)
class Difference:
    """The paired test of a row against the baseline, with its p-value corrected over the whole table."""

    test: PairedTest
    p_holm: float


@dataclass(frozen=True)
class Row:
    """One row with all that was read and computed for it; what no column asks for is None."""

    spec: RowSpec
    is_baseline: bool
    run: RunResult | Missing | None
    interval: Interval | None
    difference: Difference | Missing | None
    cost: Cost | Missing | None

    @property
    def selected_on_test(self) -> bool:
        return self.spec.select_on == "test"


@dataclass(frozen=True)
class Comparison:
    """All rows of a table by section; a variant that occurs in several sections has the same numbers in each."""

    spec: TableSpec
    sections: tuple[tuple[str, tuple[Row, ...]], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for _, rows in self.sections for row in rows)

    @property
    def baseline(self) -> Row:
        return next(row for row in self.rows if row.is_baseline)

    @property
    def metric(self) -> str:
        """Name of the metric in words; 'metric' when no row has a result."""
        return next((row.run.metric for row in self.rows if isinstance(row.run, RunResult)), "metric").replace("_", " ")

    @property
    def units(self) -> tuple[int, ...]:
        """The different numbers of test units of the rows that have a result, ascending; normally one."""
        return tuple(sorted({len(row.run.clips) for row in self.rows if isinstance(row.run, RunResult)}))

    @property
    def comparisons(self) -> int:
        """How many variants are tested against the baseline."""
        return len({row.spec.variant for row in self.rows if isinstance(row.difference, Difference)})


def parse_spec(spec: dict[str, Any]) -> TableSpec:
    """Validate a table made by the workflow; LavishError names the key that is wrong."""
    table = parse(TableSpec, spec, f"table '{spec.get('name', '?')}'")
    runs: dict[str, Path] = {}
    for section in table.sections:
        for row in section.rows:
            if runs.setdefault(row.variant, row.run) != row.run:
                raise LavishError(
                    f"table '{table.name}': variant '{row.variant}' has two runs, {runs[row.variant]} and {row.run}: "
                    "give one of them another name"
                )
    if table.baseline not in runs:
        raise LavishError(f"table '{table.name}': key 'baseline': no row has the variant '{table.baseline}'")
    return table


def compare(table: TableSpec, reads: Collection[str]) -> Comparison:
    """Read and compare the rows of `table`.

    `reads` says what is needed: 'scores' (results with intervals), 'differences' (tests against the baseline; implies
    'scores') and 'cost'. Nothing else is opened, so a table of costs needs no trained run.
    """
    specs = {row.variant: row for section in table.sections for row in section.rows}
    runs: dict[str, RunResult | Missing] = {}
    if {"scores", "differences"} & set(reads):
        runs = {variant: _read_run(row, table.seeds) for variant, row in specs.items()}
        _check_metrics(table, runs)
    intervals = {
        variant: interval(run.scores, LEVEL, limits=_LIMITS)
        for variant, run in runs.items()
        if isinstance(run, RunResult)
    }
    differences = _differences(runs, table.baseline) if "differences" in reads else {}
    costs = {variant: _read_cost(row) for variant, row in specs.items()} if "cost" in reads else {}
    sections = tuple(
        (
            section.title,
            tuple(
                Row(
                    spec=row,
                    is_baseline=row.variant == table.baseline,
                    run=runs.get(row.variant),
                    interval=intervals.get(row.variant),
                    difference=differences.get(row.variant),
                    cost=costs.get(row.variant),
                )
                for row in section.rows
            ),
        )
        for section in table.sections
    )
    return Comparison(table, sections)


def _read_run(row: RowSpec, seeds: list[int]) -> RunResult | Missing:
    try:
        run = read_run(row.run, seeds)
    except MissingResult as error:
        return Missing(f"not run: {error.short} is missing")
    selected_on = run.records[0].selected_on
    if selected_on != row.select_on:
        raise LavishError(
            f"{row.run}: the record's key 'selected_on' is '{selected_on}', but the row '{row.variant}' says "
            f"'{row.select_on}': the folder holds another run, remove it and run again"
        )
    return run


def _read_cost(row: RowSpec) -> Cost | Missing:
    try:
        return read_cost(row.run)
    except MissingResult as error:
        return Missing(f"not run: {error.short} is missing")


def _check_metrics(table: TableSpec, runs: dict[str, RunResult | Missing]) -> None:
    metrics = {run.metric: run.directory for run in runs.values() if isinstance(run, RunResult)}
    if len(metrics) > 1:
        listed = ", ".join(f"'{metric}' ({directory})" for metric, directory in sorted(metrics.items()))
        raise LavishError(f"table '{table.name}': its rows have different metrics, {listed}: use one table for each")


def _differences(runs: dict[str, RunResult | Missing], baseline: str) -> dict[str, Difference | Missing]:
    """Test every variant against the baseline, each once, and correct over all that could be tested."""
    reference = runs[baseline]
    missing: dict[str, Missing] = {}
    tests: dict[str, PairedTest] = {}
    for variant, run in runs.items():
        if variant == baseline:
            continue
        if isinstance(run, Missing):
            missing[variant] = run
        elif isinstance(reference, Missing):
            missing[variant] = Missing(f"not compared: baseline {reference.reason}")
        elif (order := unit_order(run.clips, reference.clips)) is None:
            missing[variant] = Missing("not compared: other test clips than the baseline")
        else:
            tests[variant] = paired_test(run.scores, reference.scores[:, order], LEVEL)
    corrected = holm([test.p for test in tests.values()])
    compared = {variant: Difference(test, p) for (variant, test), p in zip(tests.items(), corrected, strict=True)}
    return compared | missing
