"""Reading masks: one image per annotated segment, in which the object is bright and the rest black.

What counts is the brightness of a pixel, its largest channel; that of a palette is the brightness of its colours. In a
mask of black and one other brightness, all that is not black is the object. In one with values between (resized,
compressed), the object is what has at least half of the largest possible value: there AVSBench's own reader reduces the
masks of S4 to one bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.data.decoding.container import MediaError
from lavish.data.decoding.pictures import UNREADABLE, PictureError, open_picture
from lavish.data.formats.base import NOT_ANNOTATED
from lavish.io.paths import kind_of

_HALF = 128  # of the largest possible value, 255


def decode_masks(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[str]]:
    """Read the masks of one clip.

    Masks are resized to the frame size, like the frames, but with nearest-neighbour interpolation, since masks are
    binary. A segment whose mask is missing, cannot be decoded or does not show the object is not annotated.

    Args:
        paths: the mask of each segment, None where the segment is not annotated.
        size: height and width of the masks returned, pixels.

    Returns:
        uint8 (segments, size, size): 1 for the object, 0 for the rest, NOT_ANNOTATED in all pixels of a segment without
        annotation; and notes on masks that are missing, undecodable or anything but white on black.

    Raises:
        MediaError: the clip has no mask at all, so that it can be used neither for training nor for evaluation.
    """
    masks = np.full((len(paths), size, size), NOT_ANNOTATED, np.uint8)
    notes: list[str] = []
    for segment, path in enumerate(paths):
        if path is None:
            continue
        name = f"mask of segment {segment + 1}"
        if kind_of(path) == "missing":
            notes.append(f"{name} missing")
            continue
        try:
            is_object, found = _is_object(open_picture(path, keep_faint=True))
        except UNREADABLE as error:
            notes.append(f"{name} undecodable" + (f": {error}" if isinstance(error, PictureError) else ""))
            continue
        notes += [f"{name}: {note}" for note in found]
        if is_object is not None:
            masks[segment] = _resize(is_object, size)
    if (masks == NOT_ANNOTATED).all():
        raise MediaError("; ".join(notes) or "no segment with a frame is annotated")
    return masks, notes


def _is_object(picture: Image.Image) -> tuple[np.ndarray | None, list[str]]:
    """Return uint8 (height, width), 1 for the object, or None if the picture does not show it; and notes."""
    colours = np.asarray(picture.convert("RGB"))
    alpha = np.asarray(picture.convert("RGBA").getchannel("A")) if picture.has_transparency_data else np.uint8(255)
    if alpha.min() < alpha.max() and (colours == colours[0, 0]).all():
        return None, ["the object is in alpha alone: not annotated"]
    brightness = colours.max(axis=-1)
    levels = np.unique(brightness[brightness > 0])
    notes = []
    if len(levels) <= 1:
        is_object = brightness > 0
    elif levels[-1] < _HALF:
        return None, ["several grey values, all below half of white: not annotated"]
    else:
        is_object = brightness >= _HALF
        notes.append("several grey values: the object is what has at least half of white")
    if ((alpha >= _HALF) != is_object).any() and alpha.min() < 255:
        notes.append("partly transparent: alpha is ignored")
    if all(side.all() for side in (is_object[0], is_object[-1], is_object[:, 0], is_object[:, -1])):
        notes.append("all of its border is the object: is the background white?")
    return is_object.astype(np.uint8), notes


def _resize(mask: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
