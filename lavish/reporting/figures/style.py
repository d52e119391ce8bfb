"""Fonts, colours and notes of all figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from lavish.reporting.comparison import LEVEL_TEXT, Comparison

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Dollar signs in labels do not start formulas.
    "text.parse_math": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "lavish",
}
# Dark colours that colour-blind readers can distinguish (after Okabe & Ito).
COLOURS = ("#0072b2", "#b34700", "#00735c", "#8c3b76", "#5a5a5a", "#7a6a00", "#1b4f9c", "#a3273a")


class NoResult(Exception):
    """No row of a figure has a result; holds each row with its reason."""

    def __init__(self, excluded: list[str]) -> None:
        super().__init__("; ".join(excluded))


def notes(comparison: Comparison, excluded: list[str], more: Sequence[str] = (), width: int = 110) -> str:
    """Write the notes below a figure: the intervals, `more`, marked rows and rows that are not drawn.

    Lines have at most `width` characters.
    """
    seeds = len(comparison.spec.seeds)
    lines = [
        f"Mean over {seeds} seeds with {LEVEL_TEXT} interval over test clips and seeds."
        if seeds > 1
        else f"One seed with {LEVEL_TEXT} interval over test clips."
    ]
    lines += more
    lines += ["† selected on the test split."] if any(row.selected_on_test for row in comparison.rows) else []
    lines += [f"Not drawn: {', '.join(excluded)}."] if excluded else []
    return textwrap.fill(" ".join(lines), width)
