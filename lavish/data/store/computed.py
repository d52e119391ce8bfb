"""Arrays that are computed when they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class ComputedRows:
    """An array by clips, read by numbers, slices or arrays of numbers of clips.

    Args:
        shape: of the whole array, clips first.
        row: returns the row of a clip; it may be called from another thread.
    """

    def __init__(self, shape: tuple[Any, ...], row: Callable[[int], np.ndarray]) -> None:
        self.shape: tuple[Any, ...] = shape
        self._row = row

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, clips: Any) -> np.ndarray:
        chosen = np.arange(len(self))[clips]
        rows = np.stack([self._row(int(clip)) for clip in chosen.flat])
        return rows.reshape(*chosen.shape, *rows.shape[1:])
