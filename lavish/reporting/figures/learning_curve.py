"""The metric of a table's rows against the number of training clips: one line through the rows of equal label."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.optimize import isotonic_regression

from lavish.planning.tables.schema import LearningCurveFigure
from lavish.reporting.columns import in_unit
from lavish.reporting.comparison import Missing, Reads, TableSpec, compare
from lavish.reporting.figures.style import COLOURS, NoResult, notes
from lavish.reporting.records import RunResult

_MARKERS = "os^Dv*PX"
# Factor between the places of neighbouring lines at one number of clips, so that their intervals can be told apart.
_STEP = 1.025
# Distance between the labels of two lines, points.
_LINE_HEIGHT = 14


@dataclass
class _Line:
    """The rows of one label: numbers of training clips, fractions of all clips, means, and ends of intervals."""

    clips: list[int] = field(default_factory=list)
    fractions: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)


def draw(table: TableSpec, task: str, options: LearningCurveFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`; raises :class:`NoResult` if none has a result."""
    comparison = compare(table, {task: Reads(measures=frozenset({None}))})
    metric = comparison.measure(task)
    lines: dict[str, _Line] = {}
    excluded = []
    for title, rows in comparison.sections:
        for row in rows:
            found = row.results[task]
            if found.interval is None or not isinstance(found.run, RunResult) or found.spec is None:
                reason = found.run.reason if isinstance(found.run, Missing) else "no interval"
                excluded.append(f"{row.spec.label}, {title} ({reason})")
                continue
            line = lines.setdefault(row.spec.label + (" †" if row.selected_on_test else ""), _Line())
            line.clips.append(int(found.run.records[0].values["training_clips"]))
            line.fractions.append(float(found.spec.settings.get("fraction") or 1.0))
            line.means.append(metric.factor * found.interval.mean)
            line.lows.append(metric.factor * found.interval.low)
            line.highs.append(metric.factor * found.interval.high)
    if not lines:
        raise NoResult(excluded)
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(options.title, loc="left", fontsize=13)
    axes.set_ylabel(f"Test {metric.name.replace('_', ' ')}{in_unit(metric)}")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    _clips_axis(axes, [*lines.values()])
    for number, (label, line) in enumerate(lines.items()):
        shift = _STEP ** (number - (len(lines) - 1) / 2)
        axes.errorbar(
            [shift * clips for clips in line.clips],
            line.means,
            yerr=[
                [max(mean - low, 0.0) for mean, low in zip(line.means, line.lows, strict=True)],
                [max(high - mean, 0.0) for mean, high in zip(line.means, line.highs, strict=True)],
            ],
            fmt=f"-{_MARKERS[number % len(_MARKERS)]}",
            markersize=5.5,
            color=COLOURS[number % len(COLOURS)],
            elinewidth=1.0,
            linewidth=1.5,
            label=label,
        )
    figure.supxlabel(notes(comparison, excluded), fontsize=9, x=0.01, ha="left")
    _label_lines(axes, canvas, lines)
    return canvas


def _clips_axis(axes: Axes, lines: list[_Line]) -> None:
    """Make the logarithmic axis, with a tick at each number of clips."""
    places = {clips: share for line in lines for clips, share in zip(line.clips, line.fractions, strict=True)}
    axes.set_xscale("log")
    axes.set_xlabel("Training clips (log scale), and their part of all")
    axes.xaxis.set_major_locator(FixedLocator(sorted(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{clips}\n{100 * places[clips]:g} %" for clips in sorted(places)])
    axes.set_xlim(min(places) / 1.15, max(places) * 1.15)


def _label_lines(axes: Axes, canvas: FigureCanvasAgg, lines: dict[str, _Line]) -> None:
    """Write each line's label to the right of the axes, beside its last point, moved where two would overlap."""
    ends = sorted((max(zip(line.clips, line.means, strict=True))[1], label) for label, line in lines.items())
    colours = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(lines)}
    # Written once at their points, so that the layout leaves room for them.
    texts = [
        axes.annotate(
            label,
            (1.0, mean),
            xycoords=("axes fraction", "data"),
            xytext=(22, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=colours[label],
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colours[label], "linewidth": 0.7},
        )
        for mean, label in ends
    ]
    canvas.draw()
    points = 72 / canvas.figure.dpi
    heights = np.array([points * float(axes.transData.transform((1.0, mean))[1]) for mean, _ in ends])
    # The places closest to the points (least squares) with a line's height between neighbours.
    steps = _LINE_HEIGHT * np.arange(len(heights))
    for text, move in zip(texts, isotonic_regression(heights - steps).x + steps - heights, strict=True):
        text.set_position((22, float(move)))
