"""The expected best validation value against the number of trials of the hyperparameter search, a panel per section."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lavish.config.measures import Measure
from lavish.planning.tables.schema import ExpectedBestFigure
from lavish.reporting.columns import in_unit, measure_words
from lavish.reporting.comparison import Reads, Row, TableSpec, compare
from lavish.reporting.figures.style import COLOURS, NoResult

_STYLES = ("-", "--", ":")
_NOTE = (
    "Expected best of that many trials, drawn without replacement from those that were made (Dodge et al., 2019). "
    "Means over the seeds of the search. A method whose line still rises at its end would gain from a larger budget. "
    "A trial that diverged counts as the worst."
)


def draw(table: TableSpec, task: str, options: ExpectedBestFigure) -> FigureCanvasAgg:
    """Draw all rows of `table` that were tuned; raises :class:`NoResult` if none was."""
    comparison = compare(table, {task: Reads()})
    sections = [
        (title, tuned)
        for title, rows in comparison.sections
        if (tuned := [row for row in rows if row.results[task].tuning is not None])
    ]
    if not sections:
        raise NoResult([f"{row.spec.label} (not tuned)" for row in comparison.rows])
    figure = Figure(figsize=(8.6, 0.6 + 3.0 * len(sections)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(options.title, x=0.01, ha="left", fontsize=13)
    measure = comparison.measure(task)
    panels = figure.subplots(len(sections), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, rows) in zip(panels, sections, strict=True):
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel(f"{measure_words(measure)}, validation{in_unit(measure)}", fontsize=9)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, row in enumerate(rows):
            _draw_row(axes, row, task, measure, number)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
    panels[-1].set_xlabel("Trials")
    figure.supxlabel(textwrap.fill(_NOTE, 120), fontsize=9, x=0.01, ha="left")
    return canvas


def _draw_row(axes: Axes, row: Row, task: str, measure: Measure, number: int) -> None:
    tuning = row.results[task].tuning
    assert tuning is not None
    values = tuning.expected_best(measure)
    axes.plot(
        range(1, len(values) + 1),
        [measure.factor * value for value in values],
        _STYLES[number // len(COLOURS) % len(_STYLES)],
        marker=".",
        color=COLOURS[number % len(COLOURS)],
        linewidth=1.4,
        label=row.spec.label,
    )
