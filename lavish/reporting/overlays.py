"""Overlays of predicted masks on frames."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.io.atomic import write_bytes

_TINT = np.array([230, 40, 40])
_OPACITY = 0.75
_DIMMED = 0.7


def overlay(frame: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return a frame in grey with a tint, which is visible on any frame.

    Args:
        frame: uint8 (H, W, 3), RGB.
        weight: (H, W), from 0, no tint, to 1: a mask or a probability.

    Returns:
        uint8 (H, W, 3).
    """
    share = _OPACITY * np.asarray(weight, dtype=np.float64)[..., None]
    grey = _DIMMED * frame.mean(axis=-1, keepdims=True)
    return np.rint((1 - share) * grey + share * _TINT).astype(np.uint8)


def write_overlays(
    clips: np.ndarray, frames: np.ndarray, truth: np.ndarray, predicted: np.ndarray, folder: Path
) -> None:
    """Write a PNG of each clip: its frames, and below them overlays of the true and the predicted masks.

    Args:
        clips: names (n,).
        frames: uint8 (n, segments, H, W, 3).
        truth: uint8 (n, segments, H, W), 1 for the object.
        predicted: uint8 (n, segments, H, W), probabilities times 255.
        folder: output folder.
    """
    for clip, images, true, scores in zip(clips, frames, truth, predicted, strict=True):
        rows = [
            images,
            np.stack([overlay(*pair) for pair in zip(images, true == 1, strict=True)]),
            np.stack([overlay(*pair) for pair in zip(images, scores / 255, strict=True)]),
        ]
        sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
        content = io.BytesIO()
        Image.fromarray(sheet).save(content, "PNG")
        write_bytes(folder / f"{_file_name(str(clip))}.png", content.getvalue())


def _file_name(clip: str) -> str:
    """Return a safe file name for a clip, whose name may contain any character."""
    plain = "".join(character if character.isalnum() or character in "-_#" else "_" for character in clip)[:80]
    return plain if plain == clip else f"{plain}-{hashlib.sha256(clip.encode()).hexdigest()[:8]}"
