"""Masks laid over frames, to be looked at."""

from __future__ import annotations

import numpy as np

_TINT = np.array([230, 40, 40])
_OPACITY = 0.75
_DIMMED = 0.7


def overlay(frame: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return a frame in grey, because it may be of any colour, with a tint laid over it.

    Args:
        frame: uint8 (H, W, 3), RGB.
        weight: (H, W), from 0, no tint, to 1: a mask or a probability.

    Returns:
        uint8 (H, W, 3).
    """
    share = _OPACITY * np.asarray(weight, dtype=np.float64)[..., None]
    grey = _DIMMED * frame.mean(axis=-1, keepdims=True)
    return np.rint((1 - share) * grey + share * _TINT).astype(np.uint8)
