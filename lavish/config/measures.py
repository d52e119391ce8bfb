"""What a task's numbers mean: their unit, limits and direction, and where a threshold in them comes from.

Planning reads measures from the source of a task without importing it, evaluations store them with their results, and
tables print and test numbers accordingly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PERCENT = "%"


@dataclass(frozen=True)
class Measure:
    """A number of a split, or of each of its units; :attr:`Task.metric` is the one that selects the checkpoint."""

    name: str
    """An identifier: the key in records, and the word in tables with spaces for underscores."""
    unit: str = PERCENT
    """'%': a fraction, printed as a percentage. Else printed as it is, with this unit; '' for a number without one."""
    limits: tuple[float | None, float | None] = (0.0, 1.0)
    """Lowest and highest possible value; None if there is none. No interval goes beyond."""
    higher_is_better: bool = True
    threshold: Literal["none", "fixed", "selection", "evaluated"] = "none"
    """Where a threshold on predictions comes from: nowhere, a fixed number, the split that selects the checkpoint, or
    the truth of the evaluated split itself, as in published code; tables mark the last."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a measure's name is an identifier, and '{self.name}' is none")
        low, high = self.limits
        if low is not None and high is not None and low >= high:
            raise ValueError(f"measure '{self.name}': the limits {low:g} and {high:g} are not in ascending order")

    @property
    def as_published(self) -> bool:
        """Whether the number is only for comparison with published numbers of the same kind."""
        return self.threshold == "evaluated"

    @property
    def factor(self) -> float:
        """What a value is multiplied with to be printed."""
        return 100.0 if self.unit == PERCENT else 1.0

    def better(self, value: float, other: float) -> bool:
        """Tell whether a value is better than another one; False if either is not a number."""
        return value > other if self.higher_is_better else value < other
