"""Several measures of a section's rows, such as accuracies by type of question, as points with intervals."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lavish.config.measures import Measure
from lavish.planning.tables.schema import BreakdownFigure
from lavish.reporting.columns import in_unit, measure_words
from lavish.reporting.comparison import Estimate, Missing, Reads, TableSpec, compare
from lavish.reporting.figures.style import COLOURS, NoResult, notes

_MARKERS = "os^Dv*PX"
# Fraction of a measure's width that its points take; the rest is the gap to the next measure.
_GROUP = 0.7


def draw(table: TableSpec, task: str, options: BreakdownFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`; raises :class:`NoResult` if none has a result."""
    measures = [None if name == "metric" else name for name in options.measures]
    comparison = compare(table, {task: Reads(measures=frozenset(measures))})
    drawn, excluded = [], []
    for row in comparison.rows:
        result = row.results[task]
        if isinstance(result.run, Missing):
            excluded.append(f"{row.spec.label} ({result.run.reason})")
        else:
            mark = " †" if row.selected_on_test else ""
            drawn.append((row.spec.label + mark, [result.estimates[measure] for measure in measures]))
    if not drawn:
        raise NoResult(excluded)
    figure = Figure(figsize=(max(6.4, 1.6 + 1.05 * len(measures)), 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(options.title, loc="left", fontsize=13)
    units = {comparison.measure(task, measure).unit for measure in measures}
    axes.set_ylabel("Test split" + in_unit(comparison.measure(task, measures[0])) if len(units) == 1 else "Test split")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    for number, (label, estimates) in enumerate(drawn):
        offset = _GROUP * ((number + 0.5) / len(drawn) - 0.5)
        _draw_row(axes, label, estimates, offset, number)
    axes.set_xlim(-0.5, len(measures) - 0.5)
    axes.set_xticks(
        range(len(measures)),
        _headings([comparison.measure(task, measure) for measure in measures], comparison.measure(task)),
        fontsize=9,
    )
    axes.tick_params(axis="x", length=0)
    for place in range(1, len(measures)):
        axes.axvline(place - 0.5, color="#e5e5e5", linewidth=0.8)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    figure.supxlabel(notes(comparison, excluded), fontsize=9, x=0.01, ha="left")
    return canvas


def _draw_row(axes: Axes, label: str, estimates: list[Estimate | Missing], offset: float, number: int) -> None:
    """Draw the measures of one row; a measure without counted units has no point."""
    known = [(place, found) for place, found in enumerate(estimates) if isinstance(found, Estimate)]
    factors = [found.measure.factor for _, found in known]
    means = [factor * found.mean for factor, (_, found) in zip(factors, known, strict=True)]
    lows, highs = (
        [factor * found.ends[end] for factor, (_, found) in zip(factors, known, strict=True)] for end in (0, 1)
    )
    axes.errorbar(
        [place + offset for place, _ in known],
        means,
        yerr=[
            [max(mean - low, 0.0) for mean, low in zip(means, lows, strict=True)],
            [max(high - mean, 0.0) for mean, high in zip(means, highs, strict=True)],
        ],
        fmt=_MARKERS[number % len(_MARKERS)],
        markersize=5.5,
        color=COLOURS[number % len(COLOURS)],
        capsize=2,
        linewidth=1.2,
        label=label,
    )


def _headings(measures: list[Measure], metric: Measure) -> list[str]:
    """Return axis labels for the measures, one word per line; a prefix that all share with the metric is omitted."""
    names = [measure_words(measure) for measure in measures]
    if len(names) < 2:
        return names
    start = f"{measure_words(metric)} "
    return [name.removeprefix(start).replace(" ", "\n") for name in names]
