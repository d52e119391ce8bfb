"""The metric of a section's rows against their cost: each row is a point with its interval.

A row without cost is a horizontal line; several of them are points above "0", left of the logarithmic axis. Each
section has its colour; rows without a result are listed below.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from lavish.config.measures import Measure
from lavish.planning.tables.schema import MetricAgainstCostFigure
from lavish.reporting.columns import in_unit
from lavish.reporting.comparison import Comparison, Missing, Reads, TableSpec, compare
from lavish.reporting.figures.style import COLOURS, NoResult, notes
from lavish.reporting.records import Cost

# For each `cost` of a figure: the key in cost.json, its unit and the axis title.
_COSTS = {
    "adapter_gmacs": ("adapter_macs", 1e9, "Adapter cost (GMACs per clip, log scale)"),
    "total_gmacs": ("total_macs", 1e9, "Total cost (GMACs per clip, log scale)"),
    "trainable_params": ("trainable_params", 1e6, "Trainable parameters (M, log scale)"),
}
FRONT = "Pareto front: no row with the same or a lower cost has a better mean; intervals are not considered."
# Offsets (points) that labels are tried at.
_HEIGHTS = tuple(range(-130, 131, 5))
_Side = Literal["left", "right", "center"]
_SIDES: tuple[tuple[int, _Side], ...] = ((1, "left"), (-1, "right"))
# With more points the figure is larger, labels are smaller, and may cover intervals.
_CROWDED = 12
# Points whose costs are closer than this (pixels) are drawn side by side, so that their intervals stay apart.
_SIDE_BY_SIDE, _SIDE_BY_SIDE_CROWDED = 12.0, 4.0


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
    group: str
    """Title of the row's section."""
    on_front: bool = False


def draw(table: TableSpec, task: str, options: MetricAgainstCostFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`; raises :class:`NoResult` if none has a result."""
    comparison = compare(table, {task: Reads(measures=frozenset({None}), cost=True)})
    points, excluded = _points(comparison, task, options.cost)
    if not points:
        raise NoResult(excluded)
    if options.front:
        _mark_front(points, comparison.measure(task))
    return _draw(comparison, options, points, excluded)


def _points(comparison: Comparison, task: str, cost: str) -> tuple[list[_Point], list[str]]:
    key, unit, _ = _COSTS[cost]
    points: list[_Point] = []
    excluded: list[str] = []
    seen: set[Path] = set()
    several = len(comparison.sections) > 1
    factor = comparison.measure(task).factor
    for number, (title, rows) in enumerate(comparison.sections):
        for row in rows:
            found = row.results[task]
            assert found.spec is not None
            if several and found.spec.folder in seen:
                continue  # a row that is repeated in a later section
            seen.add(found.spec.folder)
            reasons = [result.reason for result in (found.run, found.cost) if isinstance(result, Missing)]
            if found.interval is None or not isinstance(found.cost, Cost):
                excluded.append(f"{row.spec.label} ({reasons[0]})")
                continue
            result = found.interval
            label = row.spec.label + (" †" if row.selected_on_test else "")
            points.append(
                _Point(
                    label=f"{label} (baseline)" if found.is_baseline else label,
                    is_baseline=found.is_baseline,
                    cost=getattr(found.cost, key) / unit,
                    mean=factor * result.mean,
                    low=factor * result.low,
                    high=factor * result.high,
                    colour=COLOURS[(number if several else len(points)) % len(COLOURS)],
                    group=title,
                )
            )
    return points, excluded


def _mark_front(points: list[_Point], metric: Measure) -> None:
    """Mark the Pareto front: points that no other point beats in cost or metric without losing in the other."""
    for point in points:
        point.on_front = not any(
            other.cost <= point.cost
            and not metric.better(point.mean, other.mean)
            and (other.cost, other.mean) != (point.cost, point.mean)
            for other in points
        )


def _draw(
    comparison: Comparison, options: MetricAgainstCostFigure, points: list[_Point], excluded: list[str]
) -> FigureCanvasAgg:
    crowded = len(points) > _CROWDED
    figure = Figure(figsize=(11.0, 7.5) if crowded else (7.2, 4.6), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(options.title, loc="left", fontsize=13)
    metric = comparison.measure()
    axes.set_ylabel(f"Test {metric.name.replace('_', ' ')}{in_unit(metric)}")
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    free = [point for point in points if point.cost == 0]
    paid = sorted((point for point in points if point.cost > 0), key=lambda point: (point.cost, point.mean))
    zero = _cost_axis(axes, _COSTS[options.cost][2], [point.cost for point in paid], len(free) > 1)
    axes.set_ylim(*_padded(min(point.low for point in points), max(point.high for point in points)))
    front = [FRONT] if options.front else []
    figure.supxlabel(notes(comparison, excluded, front, 170 if crowded else 110), fontsize=9, x=0.01, ha="left")
    _legend(figure, points, front=options.front)
    # The layout is computed once, so that distances in pixels stay valid after labels are placed.
    canvas.draw()
    figure.set_layout_engine("none")
    taken: list[Bbox] = []
    if zero is None:
        taken += [box for point in free for box in _draw_line(axes, point)]
    else:
        paid = [*sorted(free, key=lambda point: point.mean), *paid]
    costs = [point.cost or zero or 0.0 for point in paid]
    pixels = _side_by_side(
        [float(axes.transData.transform((cost, 0.0))[0]) for cost in costs],
        _SIDE_BY_SIDE_CROWDED if crowded else _SIDE_BY_SIDE,
    )
    places = [float(axes.transData.inverted().transform((pixel, 0.0))[0]) for pixel in pixels]
    if options.front:
        best = [(place, point.mean) for place, point in zip(places, paid, strict=True) if point.on_front]
        taken += _draw_front(axes, best)
    for point, place in zip(paid, places, strict=True):
        taken += _draw_point(axes, point, place, hollow=options.front and not point.on_front, light=crowded)
    # Labels of the front are placed first, closest to their points.
    order = sorted(zip(paid, places, strict=True), key=lambda item: not item[0].on_front)
    for point, place in order:
        taken.append(_draw_label(axes, canvas, point, place, taken, 8 if crowded else 10))
    return canvas


def _draw_front(axes: Axes, corners: list[tuple[float, float]]) -> list[Bbox]:
    """Draw the line through the points of the front; return the areas that labels must not cover."""
    axes.step(*zip(*corners, strict=True), where="post", color="#5a5a5a", linewidth=1.2, zorder=1.5)
    boxes = []
    for (x, y), (end, top) in itertools.pairwise(axes.transData.transform(corners)):
        boxes += [Bbox.from_extents(x, y - 2, end, y + 2), Bbox.from_extents(end - 2, y, end + 2, top)]
    return boxes


def _legend(figure: Figure, points: list[_Point], *, front: bool) -> None:
    """Add a legend of the sections' colours and the line."""
    groups = {point.group: point.colour for point in points}
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=group)
        for group, colour in groups.items()
        if len(groups) > 1
    ]
    marks += [Line2D([], [], color="#5a5a5a", linewidth=1.2, label="Pareto front (filled)")] if front else []
    if marks:
        figure.legend(
            handles=marks,
            loc="outside upper right",
            ncols=len(marks),
            fontsize=9,
            frameon=False,
            columnspacing=1.2,
            handletextpad=0.3,
        )


def _padded(low: float, high: float) -> tuple[float, float]:
    """Leave room above and below for labels."""
    margin = 0.12 * max(high - low, 1.0)
    return low - margin, high + margin


def _cost_axis(axes: Axes, label: str, costs: list[float], with_zero: bool) -> float | None:
    """Make the logarithmic axis of costs; return the position of rows without cost, if they are points."""
    if not costs:
        axes.set_xticks([])
        axes.set_xlabel("no row has a cost of this kind")
        return 1.0 if with_zero else None
    axes.set_xscale("log")
    axes.set_xlabel(label)
    # A margin on both sides, and at least a factor of two in total, so that equal costs have an axis too.
    margin = max(max(costs) / min(costs), 2.0) ** 0.15
    zero = min(costs) / margin if with_zero else None
    axes.set_xlim((zero or min(costs)) / margin, max(costs) * margin)
    decades = max(costs) / min(costs) * margin**2
    subs = (1.0,) if decades > 1000 else (1.0, 2.0, 5.0) if decades > 5 else tuple(range(1, 10))
    locator = LogLocator(base=10, subs=subs)
    axes.xaxis.set_major_locator(locator)
    if zero is not None:
        apart = (zero * min(costs)) ** 0.5
        axes.xaxis.set_major_locator(
            FixedLocator([zero, *(tick for tick in locator.tick_values(apart, max(costs) * margin) if tick > apart)])
        )
        axes.axvline(apart, color="#b0b0b0", linestyle=":", linewidth=1.0)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(
        FuncFormatter(
            lambda value, _: "0" if value == zero else np.format_float_positional(value, 3, fractional=False, trim="-")
        )
    )
    return zero


def _draw_line(axes: Axes, point: _Point) -> list[Bbox]:
    """Draw a row without cost as a line with its interval as a band; return the areas that labels must not cover."""
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


def _side_by_side(pixels: list[float], apart: float) -> list[float]:
    """Move positions (ascending) apart that are closer than `apart`, each group around its centre."""
    moved: list[float] = []
    start = 0
    for index in range(1, len(pixels) + 1):
        if index == len(pixels) or pixels[index] - pixels[index - 1] >= apart:
            group = pixels[start:index]
            middle = (group[0] + group[-1]) / 2
            moved += [middle + apart * (place - (len(group) - 1) / 2) for place in range(len(group))]
            start = index
    return moved


def _draw_point(axes: Axes, point: _Point, place: float, *, hollow: bool, light: bool) -> list[Bbox]:
    """Draw a row as a marker with its interval, thin if `light`; return the areas that labels must not cover."""
    _, _, bars = axes.errorbar(
        place,
        point.mean,
        yerr=[[max(point.mean - point.low, 0.0)], [max(point.high - point.mean, 0.0)]],
        fmt="D" if point.is_baseline else "o",
        markersize=8 if point.is_baseline else 7,
        color=point.colour,
        markerfacecolor="white" if hollow else point.colour,
        capsize=0 if light else 3,
        linewidth=1.4,
    )
    (x, low), (_, mean), (_, high) = (axes.transData.transform((place, y)) for y in (point.low, point.mean, point.high))
    if light:
        for bar in bars:
            bar.set_alpha(0.35)
        return [Bbox.from_extents(x - 7, mean - 7, x + 7, mean + 7)]
    return [Bbox.from_extents(x - 5, low - 5, x + 5, high + 5), Bbox.from_extents(x - 9, mean - 9, x + 9, mean + 9)]


def _draw_label(axes: Axes, canvas: FigureCanvasAgg, point: _Point, place: float, taken: list[Bbox], size: int) -> Bbox:
    """Write a point's label where it overlaps least with the areas `taken`, close positions first; return its area."""
    text = axes.annotate(
        point.label, (place, point.mean), xytext=(0, 0), textcoords="offset points", fontsize=size, color=point.colour
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
        # Away from its point: a thin line connects the label's closest edge with the point.
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
