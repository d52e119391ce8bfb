"""The change of a measure under conditions: a panel for each disturbed stream, a line for each row of the sections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from lavish.config.measures import PERCENT, Measure
from lavish.planning.tables.schema import RelianceFigure
from lavish.reporting.columns import in_unit
from lavish.reporting.comparison import (
    Comparison,
    ConditionSpec,
    Difference,
    Missing,
    NotApplicable,
    Reads,
    Result,
    TableSpec,
    compare,
)
from lavish.reporting.figures.style import COLOURS, NoResult, notes

_MARKERS = "os^Dv*PX"
# Fraction of a row's height that its points take; the rest is the gap to the next row.
_GROUP = 0.6
_PANELS = {"audio": "Sound disturbed", "visual": "Picture disturbed"}


@dataclass(frozen=True)
class _Line:
    """A row that is drawn, and whether it begins a section."""

    label: str
    result: Result
    begins: bool


def draw(table: TableSpec, task: str, options: RelianceFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`; raises :class:`NoResult` if none has a result."""
    name = None if options.measure == "metric" else options.measure
    comparison = compare(table, {task: Reads(reliance=frozenset((one, name) for one in options.conditions))})
    lines, excluded = _lines(comparison, task, [(one, name) for one in options.conditions])
    if not lines:
        raise NoResult(excluded)
    conditions = {one: table.conditions[one] for one in options.conditions}
    streams = [stream for stream in _PANELS if any(one.stream == stream for one in conditions.values())]
    most = max(sum(one.stream == stream for one in conditions.values()) for stream in streams)
    height = 1.9 + 0.35 * most + max(0.36, 0.14 * most) * len(lines)
    figure = Figure(figsize=(4.0 + 3.6 * len(streams), height), layout=ConstrainedLayoutEngine(wspace=0.06))
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(options.title, x=0.01, ha="left", fontsize=13)
    measure = comparison.measure(task, name)
    for axes, stream in zip(figure.subplots(1, len(streams), sharey=True, squeeze=False)[0], streams, strict=True):
        _draw_panel(axes, lines, {key: one for key, one in conditions.items() if one.stream == stream}, name, measure)
        axes.set_xlabel(f"{_PANELS[stream]}: change in {_words(measure)}", fontsize=10)
    first = figure.axes[0]
    first.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=9)
    first.set_ylim(len(lines) - 0.5, -0.5)  # the first row on top
    effects = [f"{one.title}: {one.effect}." for one in conditions.values()]
    figure.supxlabel(
        notes(comparison, excluded, effects, 165 if len(streams) > 1 else 110), fontsize=8, x=0.01, ha="left"
    )
    return canvas


def _lines(comparison: Comparison, task: str, keys: list[tuple[str, str | None]]) -> tuple[list[_Line], list[str]]:
    """Return the rows with a result, each run once, and the others with their reasons."""
    lines: list[_Line] = []
    excluded: list[str] = []
    seen: set[Path] = set()
    for _, rows in comparison.sections:
        begins = True
        for row in rows:
            result = row.results[task]
            assert result.spec is not None
            if result.spec.folder in seen:
                continue  # a row that is repeated in a later section
            seen.add(result.spec.folder)
            found = [result.reliance[key] for key in keys]
            if any(isinstance(one, Difference) for one in found):
                lines.append(_Line(row.spec.label + (" †" if row.selected_on_test else ""), result, begins))
                begins = False
            else:
                reasons = [one.reason for one in found if isinstance(one, Missing | NotApplicable)]
                excluded.append(f"{row.spec.label} ({reasons[0]})")
    return lines, excluded


def _draw_panel(
    axes: Axes, lines: list[_Line], conditions: dict[str, ConditionSpec], name: str | None, measure: Measure
) -> None:
    axes.axvline(0, color="#5a5a5a", linewidth=1)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for place, line in enumerate(lines):
        if place and line.begins:
            axes.axhline(place - 0.5, color="#b0b0b0", linewidth=0.8)
        reasons = [
            one.reason for key in conditions if isinstance(one := line.result.reliance[key, name], NotApplicable)
        ]
        if reasons:
            axes.text(0, place, f" {reasons[0]}", va="center", fontsize=8, color="#5a5a5a")
    for number, (key, condition) in enumerate(conditions.items()):
        offset = _GROUP * ((number + 0.5) / len(conditions) - 0.5)
        found = [(place + offset, line.result.reliance[key, name]) for place, line in enumerate(lines)]
        tests = [(place, one.test) for place, one in found if isinstance(one, Difference)]
        factor = measure.factor
        axes.errorbar(
            [factor * test.difference for _, test in tests],
            [place for place, _ in tests],
            xerr=[
                [factor * (test.difference - test.low) for _, test in tests],
                [factor * (test.high - test.difference) for _, test in tests],
            ],
            fmt=_MARKERS[number % len(_MARKERS)],
            markersize=4.5,
            color=COLOURS[number % len(COLOURS)],
            capsize=2,
            linewidth=1.2,
            label=condition.title,
        )
    if measure.unit == PERCENT:  # so that changes of hundredths of a point do not look large
        left, right = axes.get_xlim()
        axes.set_xlim(min(left, -1.0), max(right, 1.0))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=9, frameon=False, borderaxespad=0.2)


def _words(measure: Measure) -> str:
    return measure.name.replace("_", " ") + (" (points)" if measure.unit == PERCENT else in_unit(measure))
