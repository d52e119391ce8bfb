"""The result of a run's hyperparameter search, as `lavish choose` writes it, and what it says of the search itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from lavish.config.measures import Measure
from lavish.errors import LavishError

FILE = "tuning.json"


@dataclass(frozen=True)
class Tuning:
    """The trials of a run, and the one whose values it has.

    Attributes:
        values: the chosen values by their keys in the run, such as `training.lr_adapter`.
        trials: the mean of each trial on validation over the seeds of the search; None for one that diverged.
        seeds: of the trials.
        at_edge: for keys whose chosen value is the lowest or the highest that was tried, which of the two.
    """

    values: dict[str, Any]
    trials: tuple[float | None, ...]
    seeds: tuple[int, ...]
    at_edge: dict[str, str]

    def expected_best(self, measure: Measure) -> list[float]:
        """Return the expected best of 1, 2, ... trials; one that diverged has the measure's worst value."""
        known = [value for value in self.trials if value is not None]
        limit = measure.limits[0 if measure.higher_is_better else 1]
        worst = (min if measure.higher_is_better else max)(known) if limit is None else limit
        return expected_best(self.trials, worst, higher_is_better=measure.higher_is_better)


def read_tuning(run: Path) -> Tuning | None:
    """Return the search of a run, None if it has no result yet.

    Raises:
        LavishError: the file is damaged.
    """
    path = run / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Tuning(
            dict(found["values"]),
            tuple(trial["value"] for trial in found["trials"]),
            tuple(found["seeds"]),
            dict(found["at_edge"]),
        )
    except FileNotFoundError:
        return None
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise LavishError(
            f"{path}: not the result of a search ({error}): remove it and run `lavish choose` again"
        ) from None


def expected_best(values: Sequence[float | None], worst: float, *, higher_is_better: bool = True) -> list[float]:
    """Return the expected best of 1, 2, ... trials drawn without replacement from those that were made.

    The unbiased estimate of the expected validation performance of Dodge et al. (EMNLP 2019, "Show your work"), as
    Tang et al. (ACL 2020, "Showing your work doesn't always work") correct it.

    Args:
        values: of each trial; None for one that diverged, which counts as `worst`.
        worst: the value of a trial that diverged.
        higher_is_better: whether the best is the highest.
    """
    ordered = sorted((worst if value is None else value for value in values), reverse=not higher_is_better)
    count = len(ordered)
    return [
        sum(value * comb(place, drawn - 1) for place, value in enumerate(ordered)) / comb(count, drawn)
        for drawn in range(1, count + 1)
    ]
