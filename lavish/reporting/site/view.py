"""What the page shows of a table: its columns and rows, and the best row of each comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lavish.planning.tables.schema import MEASURED_COLUMNS, ColumnKey
from lavish.reporting.columns import (
    NOTHING,
    TEXT,
    PublishedMarks,
    change,
    in_unit,
    measure_words,
    p_value,
    significance,
)
from lavish.reporting.comparison import Comparison, Difference, Estimate, Row
from lavish.reporting.records import Cost
from lavish.reporting.tables import COLUMNS, label_of, main_keys, notes_of, sources_of

# A cell is sorted and plotted by the number that it begins with. So the page cannot show another one than it plots.
_NUMBER = re.compile(r"(?:< |~)?([+−-]?\d+(?:\.\d+)?)")
_INTERVAL = re.compile(r"\[([+−-]?\d+(?:\.\d+)?), ([+−-]?\d+(?:\.\d+)?)\]")
_LARGER_IS_BETTER = ("throughput",)
_SHOWN = ("trainable_params", "adapter_gmacs")
"""Columns that are shown at first besides those of :func:`lavish.reporting.tables.main_keys`."""
PUBLISHED_ONLY = "published only"
_SAME_BUDGET = 0.1


@dataclass(frozen=True)
class Heading:
    """The head of a column.

    `task` is the task whose results it shows, `shown` whether it is at first, `plotted` whether it has numbers that are
    compared with each other.
    """

    text: str
    task: str
    shown: bool
    plotted: bool
    higher_is_better: bool


@dataclass(frozen=True)
class Cell:
    """A cell as the Markdown has it.

    `number` is what it begins with, `low` and `high` are its interval, `bar` the left end, the right end and the number
    in percent of the column's range. `mark` is '*' or '**' for a significant difference. `run` names the run it is of.
    """

    text: str
    number: float | None = None
    low: float | None = None
    high: float | None = None
    mark: str = ""
    run: str | None = None
    bar: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Line:
    """A row: the variant, what it is filtered by, and its cells; `runs` are its runs by task."""

    label: str
    section: str
    backbone: str
    kind: str
    budget: str
    tasks: tuple[str, ...]
    runs: dict[str, str]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Best:
    """The row with the best mean of a measure that a table tests, among those not selected on the test split.

    `rows` says how many rows have a result, and of how many.
    """

    table: str
    task: str
    measure: str
    label: str
    rows: str
    value: str
    verdict: str
    trainable: str
    macs: str
    run: str


@dataclass(frozen=True)
class TableView:
    """A table of the page."""

    name: str
    title: str
    description: str
    tasks: dict[str, str]
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    best: tuple[Best, ...]
    notes: tuple[str, ...]
    sources: tuple[tuple[int, str], ...]


def view(comparison: Comparison) -> TableView:
    """Return what the page shows of a table."""
    spec = comparison.spec
    keys = [ColumnKey.of(column) for column in spec.columns]
    lines = [_line(comparison, title, row, keys) for title, rows in comparison.sections for row in rows]
    cells = [_with_bars(column) for column in zip(*(line.cells for line in lines), strict=True)]
    headings = _headings(comparison, keys, cells)
    return TableView(
        spec.name,
        spec.title,
        " ".join(spec.description.split()),
        {task: spec.title_of(task) for task in spec.tasks},
        headings,
        tuple(replace(line, cells=tuple(column[number] for column in cells)) for number, line in enumerate(lines)),
        tuple(_best(comparison, keys)),
        tuple(notes_of(comparison)),
        tuple(sources_of(comparison)),
    )


def _headings(comparison: Comparison, keys: list[ColumnKey], cells: list[list[Cell]]) -> tuple[Heading, ...]:
    main = main_keys(comparison)
    found: list[Heading] = []
    for key in keys:
        measured = key.name in MEASURED_COLUMNS or key.name == "validation"
        higher = (
            comparison.measure(key.task, key.measure).higher_is_better if measured else key.name in _LARGER_IS_BETTER
        )
        for place, text in enumerate(COLUMNS[key.name].headings(comparison, key)):
            # The second column of a result is its interval or p-value, which the first shows as a bar or a mark.
            shown = place == 0 and (key in main or key.name in _SHOWN)
            plotted = key.name not in TEXT and sum(cell.number is not None for cell in cells[len(found)]) > 1
            found.append(Heading(text, key.task or comparison.spec.task, shown, plotted and place == 0, higher))
    return tuple(found)


def _line(comparison: Comparison, section: str, row: Row, keys: list[ColumnKey]) -> Line:
    marks = PublishedMarks.of(comparison)
    runs = {task: run.folder.name for task, run in row.spec.runs.items()}
    settings = next((run.settings for run in row.spec.runs.values()), {})
    cells: list[Cell] = []
    for key in keys:
        texts = COLUMNS[key.name].cells(row, key, marks)
        run = runs.get(key.task or row.spec.task) if key.name != "published" else None
        result = row.of(key.task)
        mark = significance(result.differences.get(key.measure)) if result and key.name == "difference" else ""
        for place, text in enumerate(texts):
            # The interval of a mean is in the next column.
            following = texts[place + 1] if key.name == "metric" and place + 1 < len(texts) else ""
            cells.append(_cell(text, following, "" if place else mark, None if text == NOTHING else run, key.name))
    return Line(
        label_of(row),
        section,
        str(settings.get("backbone") or "none"),
        str(settings.get("kind") or "other") if runs else PUBLISHED_ONLY,
        _budget(comparison, row),
        tuple(row.results),
        runs,
        tuple(cells),
    )


def _cell(text: str, following: str, mark: str, run: str | None, column: str) -> Cell:
    if column in TEXT:
        return Cell(text, run=run)
    number, interval = _NUMBER.match(text), _INTERVAL.search(f"{text} {following}")
    low, high = map(_value, interval.groups()) if interval and number else (None, None)
    return Cell(text, _value(number[1]) if number else None, low, high, mark, run)


def _value(text: str) -> float:
    return float(text.replace("−", "-"))


def _with_bars(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells of a column with their intervals in percent of its range."""
    cells = list(cells)
    ends = [end for cell in cells for end in (cell.low, cell.high) if end is not None]
    if not ends or max(ends) == min(ends):
        return cells
    lowest, width = min(ends), max(ends) - min(ends)

    def percent(value: float) -> float:
        return round(min(100.0, max(0.0, 100 * (value - lowest) / width)), 1)

    return [
        cell
        if cell.low is None or cell.high is None or cell.number is None
        else replace(cell, bar=(percent(cell.low), percent(cell.high), percent(cell.number)))
        for cell in cells
    ]


def _budget(comparison: Comparison, row: Row) -> str:
    """Say how many trainable parameters a row has, compared with the baseline on the row's task."""
    result, baseline = row.of(None), comparison.baseline.of(row.spec.task)
    if result is None or baseline is None or not isinstance(result.cost, Cost) or not isinstance(baseline.cost, Cost):
        return "not known"
    share = result.cost.trainable_params / max(1, baseline.cost.trainable_params) - 1
    if abs(share) <= _SAME_BUDGET:
        return "as the baseline (±10 %)"
    return "fewer parameters than the baseline" if share < 0 else "more parameters than the baseline"


def _best(comparison: Comparison, keys: list[ColumnKey]) -> Iterable[Best]:
    spec, marks = comparison.spec, PublishedMarks.of(comparison)
    labels = {row.spec.variant: row.spec.label for row in reversed(comparison.rows)}
    for key in keys:
        if key.name != "difference":
            continue
        task, measure = key.task or spec.task, comparison.measure(key.task, key.measure)
        rows = [
            (estimate.mean, row)
            for row in comparison.rows
            if (result := row.of(key.task))
            and isinstance(estimate := result.estimates.get(key.measure), Estimate)
            and row.spec.runs[task].select_on != "test"
        ]
        if not rows:
            continue
        planned = [one.spec for one in comparison.rows if task in one.spec.runs]
        folders = {one.spec.runs[task].folder for _, one in rows}
        _, row = (max if measure.higher_is_better else min)(rows, key=lambda each: each[0])
        result = row.results[task]
        found = result.differences.get(key.measure)
        baseline = labels[row.spec.baseline or spec.baseline]
        if result.is_baseline:
            verdict = f"no row is better than {baseline}, which the others are compared with"
        elif not isinstance(found, Difference):
            verdict = f"not compared with {baseline}"
        else:
            better = "significantly better" if significance(found) else "not significantly better"
            verdict = (
                f"{better} than {baseline}: {change(found.test.difference, measure)} "
                f"[{change(found.test.low, measure)}, {change(found.test.high, measure)}]"
                f"{significance(found) and ' '}{significance(found)}, p (Holm) {p_value(found.p_holm)}"
            )
        cost = {
            name: COLUMNS[name].cells(row, ColumnKey(name, None, key.task), marks)[0]
            for name in ("trainable_params", "adapter_gmacs")
        }
        yield Best(
            table=spec.name,
            task=spec.title_of(task),
            measure=f"{measure_words(measure)}{in_unit(measure)}",
            label=label_of(row),
            rows=f"{len(folders)} of {len({one.runs[task].folder for one in planned})}",
            value=COLUMNS["mean"].cells(row, key, marks)[0],
            verdict=verdict,
            trainable=cost["trainable_params"],
            macs=cost["adapter_gmacs"],
            run=row.spec.runs[task].folder.name,
        )
