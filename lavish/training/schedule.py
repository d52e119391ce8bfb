"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lavish.config.schema import ScheduleConfig


def schedule(options: ScheduleConfig, steps_per_epoch: int, epochs: int) -> Callable[[int], float]:
    """Return the factor on both learning rates as a function of the optimizer step; it has no state to resume."""
    total = max(1, steps_per_epoch * epochs)
    warmup = round(options.warmup * total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if options.kind == "step":
            return options.factor ** (step // steps_per_epoch // options.every)
        if options.kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        return 1.0

    return factor
