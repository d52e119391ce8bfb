"""Drawing images of scenes: objects at separate places in front of a cluttered background."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lavish.data.synthetic.assets import AssetLibrary


class Place(NamedTuple):
    """Centre and size of an object, in units of the frame size; `extent` is the longer side of the object."""

    x: float
    y: float
    extent: float


def sample_places(rng: np.random.Generator, count: int) -> list[Place]:
    """Sample places for `count` objects that overlap little.

    Each object gets its own cell of a grid, in random order. Placing objects one after another where there is still
    room would make the later ones smaller, so that size would reveal the order.
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
    """Return an image of patches and lines in muted colours, float32 (size, size, 3), 0 to 255."""
    coarse = rng.normal(0, 22, size=(5, 5, 1)) + rng.normal(0, 9, size=(5, 5, 3)) + rng.uniform(90, 165)
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    # Drawn at twice the size and reduced, which smooths the edges.
    image = small.resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
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
    smooth = np.asarray(image.reduce(2), np.float32)
    return smooth + rng.normal(0, 5, size=(size, size, 1)).astype(np.float32)


def scale_cut_out(image: np.ndarray, extent: float) -> np.ndarray:
    """Scale an RGBA image, uint8 (h, w, 4), so that its longer side has `extent` pixels.

    Returns:
        float32 (h', w', 4): colours premultiplied by alpha, 0 to 255, and alpha, 0 to 1.
    """
    height, width = image.shape[:2]
    scale = extent / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Premultiplied alpha keeps the arbitrary colours of transparent pixels from bleeding into the edges.
    scaled = Image.fromarray(image, "RGBA").convert("RGBa").resize(size, Image.Resampling.BICUBIC)
    values = np.asarray(scaled, np.float32).copy()
    values[..., 3] /= 255
    return values


def paste(canvas: np.ndarray, object_: np.ndarray, x: float, y: float) -> tuple[slice, slice, np.ndarray]:
    """Paste a scaled cut-out onto `canvas` (H, W, 3), in place and clipped, with its centre at pixel (x, y).

    Returns:
        Rows, columns and alpha of the covered part of the canvas, from which masks are made.
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
    """Draw an image with objects of random classes and its class map.

    Args:
        rng: random generator.
        library: images of the objects.
        split: split of the instances.
        size: height and width, pixels.
        n_objects: number of objects.

    Returns:
        The image, uint8 (size, size, 3), and the class of each pixel, int64 (size, size), ``len(library.classes)`` for
        background.
    """
    background = len(library.classes)
    canvas = cluttered_background(rng, size)
    class_map = np.full((size, size), background, np.int64)
    for place in sample_places(rng, n_objects):
        class_index = int(rng.integers(background))
        instance = int(rng.integers(library.count_images(class_index, split)))
        scaled = scale_cut_out(library.image(class_index, split, instance), place.extent * size)
        rows, columns, alpha = paste(canvas, scaled, place.x * size, place.y * size)
        class_map[rows, columns][alpha > 0.5] = class_index
    return to_pixels(canvas), class_map
