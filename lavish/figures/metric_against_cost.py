"""The metric of a section's rows against what they cost: each row is a point with its interval.

Rows without cost are horizontal lines, rows without a result are listed below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from lavish.comparison import Comparison, Missing, Reads, TableSpec, compare
from lavish.figures.style import COLOURS, NoResult, notes
from lavish.records import Cost
from lavish.table_config import MetricAgainstCostFigure

# What each `cost` of a figure plots: the key in cost.json, its unit and the axis title.
_COSTS = {
    "adapter_gmacs": ("adapter_macs", 1e9, "Adapter cost (GMACs per clip, log scale)"),
    "trainable_params": ("trainable_params", 1e6, "Trainable parameters (M, log scale)"),
}
# Offsets (points) that labels are tried at.
_HEIGHTS = tuple(range(-130, 131, 5))
_Side = Literal["left", "right", "center"]
_SIDES: tuple[tuple[int, _Side], ...] = ((1, "left"), (-1, "right"))
# Points whose costs are closer than this (pixels) are drawn side by side, so that their intervals stay apart.
_SIDE_BY_SIDE = 12.0


@dataclass
class _Point:
    """A row on the figure; `cost` is 0 for a row without adapters, which a log scale cannot hold."""

    label: str
    is_baseline: bool
    cost: float
    mean: float
    low: float
    high: float
    colour: str


def draw(table: TableSpec, task: str, options: MetricAgainstCostFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`; raises :class:`NoResult` when none has a result."""
    comparison = compare(table, {task: Reads(measures=frozenset({None}), cost=True)})
    points, left_out = _points(comparison, task, options.cost)
    if not points:
        raise NoResult(left_out)
    return _draw(comparison, options.title, options.cost, points, left_out)


def _points(comparison: Comparison, task: str, cost: str) -> tuple[list[_Point], list[str]]:
    key, unit, _ = _COSTS[cost]
    points: list[_Point] = []
    left_out: list[str] = []
    for row in comparison.rows:
        found = row.results[task]
        reasons = [result.reason for result in (found.run, found.cost) if isinstance(result, Missing)]
        if found.interval is None or not isinstance(found.cost, Cost):
            left_out.append(f"{row.spec.label} ({reasons[0]})")
            continue
        result = found.interval
        label = row.spec.label + (" †" if row.selected_on_test else "")
        points.append(
            _Point(
                label=f"{label} (baseline)" if found.is_baseline else label,
                is_baseline=found.is_baseline,
                cost=getattr(found.cost, key) / unit,
                mean=100 * result.mean,
                low=100 * result.low,
                high=100 * result.high,
                colour=COLOURS[len(points) % len(COLOURS)],
            )
        )
    return points, left_out


def _draw(comparison: Comparison, title: str, cost: str, points: list[_Point], left_out: list[str]) -> FigureCanvasAgg:
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=13)
    axes.set_ylabel(f"Test {comparison.metric()} (%)")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    free = [point for point in points if point.cost == 0]
    paid = sorted((point for point in points if point.cost > 0), key=lambda point: (point.cost, point.mean))
    _cost_axis(axes, _COSTS[cost][2], [point.cost for point in paid])
    axes.set_ylim(*_padded(min(point.low for point in points), max(point.high for point in points)))
    figure.supxlabel(notes(comparison, left_out), fontsize=9, x=0.01, ha="left")
    # The layout is settled once, so that distances in pixels stay what they were when labels were placed.
    canvas.draw()
    figure.set_layout_engine("none")
    taken = [box for point in free for box in _draw_line(axes, point)]
    pixels = _side_by_side([float(axes.transData.transform((point.cost, point.mean))[0]) for point in paid])
    places = [float(axes.transData.inverted().transform((pixel, 0.0))[0]) for pixel in pixels]
    for point, place in zip(paid, places, strict=True):
        taken += _draw_point(axes, point, place)
    for point, place in zip(paid, places, strict=True):
        taken.append(_draw_label(axes, canvas, point, place, taken))
    return canvas


def _padded(low: float, high: float) -> tuple[float, float]:
    """Leave room above and below for labels."""
    margin = 0.12 * max(high - low, 1.0)
    return low - margin, high + margin


def _cost_axis(axes: Axes, label: str, costs: list[float]) -> None:
    if not costs:
        axes.set_xticks([])
        axes.set_xlabel("no row has a cost of this kind")
        return
    axes.set_xscale("log")
    axes.set_xlabel(label)
    # A factor of margin on both sides, and at least a factor of two in all, so that equal costs have an axis too.
    margin = max(max(costs) / min(costs), 2.0) ** 0.15
    axes.set_xlim(min(costs) / margin, max(costs) * margin)
    decades = axes.get_xlim()[1] / axes.get_xlim()[0]
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0,) if decades > 1000 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: np.format_float_positional(value, 3, fractional=False, trim="-"))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_line(axes: Axes, point: _Point) -> list[Bbox]:
    """Draw a row without cost as a horizontal line with its interval as a band; return what labels must not cover."""
    axes.axhspan(point.low, point.high, color=point.colour, alpha=0.10, linewidth=0)
    axes.axhline(point.mean, color=point.colour, linestyle="--", linewidth=1.2)
    text = axes.annotate(
        point.label,
        (1.0, point.mean),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=10,
        color=point.colour,
    )
    frame = axes.get_window_extent()
    height = float(axes.transData.transform((1.0, point.mean))[1])
    return [text.get_window_extent(), Bbox.from_extents(frame.x0, height - 2, frame.x1, height + 2)]


def _side_by_side(pixels: list[float]) -> list[float]:
    """Move positions (ascending) apart that are nearly equal, each group around its own middle."""
    moved: list[float] = []
    start = 0
    for index in range(1, len(pixels) + 1):
        if index == len(pixels) or pixels[index] - pixels[index - 1] >= _SIDE_BY_SIDE:
            group = pixels[start:index]
            middle = (group[0] + group[-1]) / 2
            moved += [middle + _SIDE_BY_SIDE * (place - (len(group) - 1) / 2) for place in range(len(group))]
            start = index
    return moved


def _draw_point(axes: Axes, point: _Point, place: float) -> list[Bbox]:
    """Draw a row as a marker with its interval; return what labels must not cover."""
    axes.errorbar(
        place,
        point.mean,
        yerr=[[max(point.mean - point.low, 0.0)], [max(point.high - point.mean, 0.0)]],
        fmt="D" if point.is_baseline else "o",
        markersize=8 if point.is_baseline else 7,
        color=point.colour,
        capsize=3,
        linewidth=1.4,
    )
    (x, low), (_, mean), (_, high) = (axes.transData.transform((place, y)) for y in (point.low, point.mean, point.high))
    return [Bbox.from_extents(x - 5, low - 5, x + 5, high + 5), Bbox.from_extents(x - 9, mean - 9, x + 9, mean + 9)]


def _draw_label(axes: Axes, canvas: FigureCanvasAgg, point: _Point, place: float, taken: list[Bbox]) -> Bbox:
    """Write a point's label where it covers least of what is `taken`, near before far; return where it lies."""
    text = axes.annotate(
        point.label, (place, point.mean), xytext=(0, 0), textcoords="offset points", fontsize=10, color=point.colour
    )
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent()

    def put(dx: int, dy: int, side: _Side) -> Bbox:
        text.set(position=(dx, dy), horizontalalignment=side, verticalalignment="center")
        return text.get_window_extent(renderer)

    def badness(candidate: tuple[int, int, _Side]) -> float:
        box = put(*candidate)
        covered = sum(_overlap(box, other) for other in taken) + float(box.width * box.height) - _overlap(box, frame)
        return covered + abs(candidate[0]) + 2 * abs(candidate[1])

    beside = [(sign * dx, dy, side) for dy in _HEIGHTS for dx in (10, 24) for sign, side in _SIDES]
    above: list[tuple[int, int, _Side]] = [(0, dy, "center") for dy in _HEIGHTS if abs(dy) >= 15]
    best = min([*beside, *above], key=badness)
    box = put(*best)
    if max(abs(best[0]) - 12, abs(best[1]) - 9) > 0:
        # Away from its point: a thin line from the label's nearest edge says which one it belongs to.
        x, y = axes.transData.transform((place, point.mean))
        end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
        ends = axes.transData.inverted().transform([(x, y), end])
        axes.plot(ends[:, 0], ends[:, 1], color=point.colour, linewidth=0.6, alpha=0.6)
    return box


def _overlap(a: Bbox, b: Bbox) -> float:
    """Area (square pixels) that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)
