"""Pictures of scenes: objects at separate places before a cluttered background."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lavish.data.synthetic.assets import AssetLibrary


class Place(NamedTuple):
    """Where an object is and how large: all in parts of the picture's side, `extent` the longer side of the object."""

    x: float
    y: float
    extent: float


def draw_places(rng: np.random.Generator, count: int) -> list[Place]:
    """Draw places for `count` objects that overlap little.

    Each gets a cell of a grid of its own, and cells are handed out in random order. Placing one object after another
    wherever there is still room would make the later ones smaller, and so tell which came first.
    """
    side = max(2, math.ceil(math.sqrt(count)))
    rows, columns = np.divmod(rng.permutation(side * side)[:count], side)
    offsets = rng.uniform(-0.1, 0.1, size=(count, 2)) + 0.5
    extents = rng.uniform(0.9, 1.2, size=count)
    return [
        Place(float((column + dx) / side), float((row + dy) / side), float(extent / side))
        for row, column, (dx, dy), extent in zip(rows, columns, offsets, extents, strict=True)
    ]


def cluttered_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a muted picture full of patches and lines, float32 (size, size, 3), 0 to 255."""
    coarse = rng.normal(0, 22, size=(5, 5, 1)) + rng.normal(0, 9, size=(5, 5, 3)) + rng.uniform(90, 165)
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    # At twice the size, so that reducing it smooths the edges.
    picture = small.resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(6, 13))):
        colour = tuple(int(value) for value in np.clip(rng.uniform(60, 190) + rng.normal(0, 14, size=3), 0, 255))
        x, y, other_x, other_y = (float(value) for value in rng.uniform(-0.1, 1.1, size=4) * 2 * size)
        width, height = (float(value) for value in rng.uniform(0.04, 0.2, size=2) * 2 * size)
        kind = rng.integers(3)
        if kind == 0:
            pen.line((x, y, other_x, other_y), fill=colour, width=max(1, round(float(rng.uniform(0.02, 0.07)) * size)))
        elif kind == 1:
            pen.ellipse((x - width, y - height, x + width, y + height), fill=colour)
        else:
            pen.polygon([(x, y), (x + width, y - height), (x + height, y + width)], fill=colour)
    smooth = np.asarray(picture.reduce(2), np.float32)
    return smooth + rng.normal(0, 5, size=(size, size, 1)).astype(np.float32)


def cut_out(picture: np.ndarray, extent: float) -> np.ndarray:
    """Scale an RGBA picture, uint8 (h, w, 4), so that its longer side measures `extent` pixels.

    Returns:
        float32 (h', w', 4): colours multiplied by alpha, 0 to 255, and alpha, 0 to 1.
    """
    height, width = picture.shape[:2]
    scale = extent / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Colours of transparent pixels mean nothing: multiplied by alpha they cannot bleed into the edge.
    scaled = Image.fromarray(picture, "RGBA").convert("RGBa").resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(scaled, np.float32).copy()
    values[..., 3] /= 255
    return values


def paste(canvas: np.ndarray, object_: np.ndarray, x: float, y: float) -> tuple[slice, slice, np.ndarray]:
    """Lay a scaled cut-out over `canvas` (H, W, 3), in place, its centre at pixel (x, y); what sticks out is cut off.

    Returns:
        Rows, columns and alpha of the part of the canvas that it covers, to keep account of what is seen where.
    """
    top, left = round(y - object_.shape[0] / 2), round(x - object_.shape[1] / 2)
    rows = slice(max(0, top), max(0, min(canvas.shape[0], top + object_.shape[0])))
    columns = slice(max(0, left), max(0, min(canvas.shape[1], left + object_.shape[1])))
    visible = object_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    alpha = visible[..., 3]
    canvas[rows, columns] = canvas[rows, columns] * (1 - alpha[..., None]) + visible[..., :3]
    return rows, columns, alpha


def to_pixels(canvas: np.ndarray) -> np.ndarray:
    """Return a canvas as uint8."""
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def labelled_scene(
    rng: np.random.Generator, library: AssetLibrary, split: str, size: int, n_objects: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture with objects of random classes and say what is seen where.

    Args:
        rng: decides everything.
        library: where the objects come from.
        split: whose instances to draw.
        size: height and width, pixels.
        n_objects: how many objects.

    Returns:
        The picture, uint8 (size, size, 3), and the class of each pixel, int64 (size, size); background is
        ``len(library.classes)``.
    """
    background = len(library.classes)
    canvas = cluttered_background(rng, size)
    class_map = np.full((size, size), background, np.int64)
    for place in draw_places(rng, n_objects):
        class_index = int(rng.integers(background))
        instance = int(rng.integers(library.pictures(class_index, split)))
        scaled = cut_out(library.picture(class_index, split, instance), place.extent * size)
        rows, columns, alpha = paste(canvas, scaled, place.x * size, place.y * size)
        class_map[rows, columns][alpha > 0.5] = class_index
    return to_pixels(canvas), class_map
