"""Figures of a table's rows: one module per kind, with a function `draw`.

The same results give the same file, byte for byte: text becomes outlines, and neither dates nor random ids are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lavish.errors import LavishError, did_you_mean
from lavish.io.atomic import replacing
from lavish.planning.tables.schema import (
    BreakdownFigure,
    ExpectedBestFigure,
    FigureConfig,
    LearningCurveFigure,
    MetricAgainstCostFigure,
    RelianceFigure,
    drawn_sections,
)
from lavish.reporting.comparison import TableSpec, parse_spec
from lavish.reporting.figures import (
    breakdown,
    expected_best,
    learning_curve,
    metric_against_cost,
    predicted_masks,
    reliance,
)
from lavish.reporting.figures.style import STYLE, NoResult

_METADATA: dict[str, dict[str, str | None]] = {".svg": {"Date": None}, ".png": {"Software": None}}


def write_figure(spec: dict[str, Any], name: str, out: Path) -> None:
    """Draw the figure `name` of a table (:class:`lavish.reporting.comparison.TableSpec`) to `out`, .svg or .png.

    Raises LavishError for an unknown figure, section or file type, and if no row has a result.
    """
    table = parse_spec(spec)
    if name not in table.figures:
        raise LavishError(f"table '{table.name}': key 'figures': no figure '{name}'{did_you_mean(name, table.figures)}")
    options = table.figures[name]
    titles = [section.title for section in table.sections]
    for title in drawn_sections(options):
        if title not in titles:
            raise LavishError(
                f"table '{table.name}': key 'figures.{name}.section': no section '{title}'{did_you_mean(title, titles)}"
            )
    if out.suffix not in _METADATA:
        raise LavishError(f"{out}: figures are written as {' or '.join(_METADATA)}, not '{out.suffix}'")
    task = options.task or table.task
    # Only the results of the drawn sections and task are read.
    sections = []
    for section in (table.sections[titles.index(title)] for title in drawn_sections(options)):
        rows = [row.model_copy(update={"runs": {task: row.runs[task]}}) for row in section.rows if task in row.runs]
        sections += [section.model_copy(update={"rows": rows})] if rows else []
    drawn = table.model_copy(update={"task": task, "sections": sections})
    with matplotlib.rc_context(STYLE):
        try:
            canvas = _draw(drawn, task, options)
        except NoResult as error:
            raise LavishError(f"table '{table.name}', figure '{name}': no row has a result: {error}") from None
        with replacing(out) as temporary:
            canvas.figure.savefig(temporary, format=out.suffix[1:], dpi=150, metadata=_METADATA[out.suffix])


def _draw(table: TableSpec, task: str, options: FigureConfig) -> FigureCanvasAgg:
    if isinstance(options, MetricAgainstCostFigure):
        return metric_against_cost.draw(table, task, options)
    if isinstance(options, BreakdownFigure):
        return breakdown.draw(table, task, options)
    if isinstance(options, ExpectedBestFigure):
        return expected_best.draw(table, task, options)
    if isinstance(options, RelianceFigure):
        return reliance.draw(table, task, options)
    if isinstance(options, LearningCurveFigure):
        return learning_curve.draw(table, task, options)
    return predicted_masks.draw(table, task, options)
