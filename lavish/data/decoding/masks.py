"""Masks of clips: pictures whose non-zero pixels are the object, one a segment where somebody has annotated it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.data.decoding.container import MediaError
from lavish.data.formats.base import NOT_ANNOTATED


def decode_masks(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[str]]:
    """Read the masks of one clip.

    A mask of another size is resized to the frames' square, as the pictures are, but by nearest neighbours: a mask has
    no values between. A mask that is missing or cannot be decoded leaves its segment without annotation.

    Args:
        paths: of each segment, its mask, or None where the segment is not annotated.
        size: height and width of the masks returned, pixels.

    Returns:
        uint8 (segments, size, size): 1 the object, 0 not, NOT_ANNOTATED throughout a segment without annotation; and notes
        on what is not as promised.

    Raises:
        MediaError: none of the masks is there, so that there is nothing to learn from and nothing to score.
    """
    masks = np.full((len(paths), size, size), NOT_ANNOTATED, np.uint8)
    notes: list[str] = []
    for segment, path in enumerate(paths):
        if path is None:
            continue
        if not path.exists():
            notes.append(f"mask of segment {segment + 1} missing")
            continue
        try:
            with Image.open(path) as image:
                masks[segment] = _resize(_is_object(image), size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            notes.append(f"mask of segment {segment + 1} undecodable")
    if (masks == NOT_ANNOTATED).all():
        raise MediaError("; ".join(notes) or "no segment that has a picture is annotated")
    return masks, notes


def _is_object(image: Image.Image) -> np.ndarray:
    """Return uint8 (height, width): where any channel, or the palette's index, is not zero; alpha says nothing."""
    values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA") else image)
    return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0, np.uint8)


def _resize(mask: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
