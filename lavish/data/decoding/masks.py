"""Reading masks: one image per annotated segment, whose non-zero pixels are the object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.data.decoding.container import MediaError
from lavish.data.formats.base import NOT_ANNOTATED


def decode_masks(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[str]]:
    """Read the masks of one clip.

    Masks are resized to the frame size, like the frames, but with nearest-neighbour interpolation, since masks are
    binary. A segment whose mask is missing or cannot be decoded is not annotated.

    Args:
        paths: the mask of each segment, None where the segment is not annotated.
        size: height and width of the masks returned, pixels.

    Returns:
        uint8 (segments, size, size): 1 for the object, 0 for the rest, NOT_ANNOTATED in all pixels of a segment without
        annotation; and notes on missing or undecodable masks.

    Raises:
        MediaError: the clip has no mask at all, so that it can be used neither for training nor for evaluation.
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
        raise MediaError("; ".join(notes) or "no segment with a frame is annotated")
    return masks, notes


def _is_object(image: Image.Image) -> np.ndarray:
    """Return uint8 (height, width): 1 where any colour channel or the palette index is not zero; alpha is ignored."""
    values = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA") else image)
    return np.asarray(values.any(axis=-1) if values.ndim == 3 else values != 0, np.uint8)


def _resize(mask: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
