"""Procedural images: a class is a shape with a texture; colours, rotation, stretch and texture vary per instance.

Neither the shape nor the texture alone determines the class, because each of them occurs in several classes. The
pretraining classes are other combinations of the same shapes and textures, and two more shapes, so that a backbone
pretrained on them has never seen an object of a task class.
"""

from __future__ import annotations

import colorsys
import functools
from typing import NamedTuple

import numpy as np

SIZE = 64  # pixels, height and width at which objects are drawn; scenes scale them down


class Look(NamedTuple):
    """The appearance of a class of objects."""

    texture: str
    shape: str

    def __str__(self) -> str:
        return f"{self.texture} {self.shape}"


_SHAPES = ("disc", "square", "triangle", "star")
_TEXTURES = ("striped", "checked", "dotted", "plain")
_PRETRAINING_SHAPES = ("ring", "cross")

# Two of the four textures of every shape and two of the four shapes of every texture.
TASK_LOOKS = tuple(
    Look(_TEXTURES[(row + column) % 4], shape) for row, shape in enumerate(_SHAPES) for column in range(2)
)
PRETRAINING_LOOKS = tuple(
    Look(_TEXTURES[(row + column) % 4], shape) for row, shape in enumerate(_SHAPES) for column in range(2, 4)
) + tuple(
    Look(_TEXTURES[2 * row + column], shape) for row, shape in enumerate(_PRETRAINING_SHAPES) for column in range(2)
)


def draw(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Return an instance of a class of objects: uint8 (h, w, 4) RGBA, h and w at most `SIZE`, cropped to the object."""
    x, y = _grid()
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
    scale = 0.72  # of half the image, so that the object fits at any rotation and stretch
    u = (x * np.cos(turn) + y * np.sin(turn)) / (scale * np.sqrt(stretch))
    v = (y * np.cos(turn) - x * np.sin(turn)) * (np.sqrt(stretch) / scale)
    pixels = scale * SIZE / 2
    alpha = np.clip(0.5 - _outside(look.shape, u, v) * pixels, 0, 1)
    tint = _mixture(rng, look.texture, u, v)[..., None]
    first, second = _colours(rng)
    image = np.empty((SIZE, SIZE, 4), np.uint8)
    image[..., :3] = np.rint(first + (second - first) * tint)
    image[..., 3] = np.rint(255 * alpha)
    rows, columns = (np.flatnonzero(image[..., 3].any(axis=axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@functools.cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the pixel centres, -1 to 1."""
    axis = ((np.arange(SIZE) + 0.5) * 2 / SIZE - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def _outside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the signed distance of points to the outline (radius about 1), negative inside."""
    if shape == "disc":
        return np.hypot(u, v) - 1
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.88
    if shape == "triangle":
        # The largest of the distances to the three sides.
        return np.maximum(v, np.abs(u) * np.sqrt(0.75) - v / 2) - 0.62
    if shape == "star":
        return _outside_star(u, v, tips=5, outer=1.25, inner=0.55)
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.74) - 0.3
    if shape == "cross":
        small, large = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
        return np.maximum(small - 0.36, large - 1.1)
    raise ValueError(f"unknown shape '{shape}'")


def _outside_star(u: np.ndarray, v: np.ndarray, *, tips: int, outer: float, inner: float) -> np.ndarray:
    # All edges are rotated and mirrored onto the one from the tip at angle 0 to the notch at angle pi / tips.
    half = np.pi / tips
    radius, angle = np.hypot(u, v), np.abs((np.arctan2(v, u) + half) % (2 * half) - half)
    edge = np.array([inner * np.cos(half) - outer, inner * np.sin(half)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    along = (radius * np.cos(angle) - outer) * normal[0] + radius * np.sin(angle) * normal[1]
    return along.astype(np.float32)


def _mixture(rng: np.random.Generator, texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the proportion of the second colour at each point, 0 to 1."""
    turn, phase, other_phase = rng.uniform(0, 2 * np.pi, size=3)
    s, t = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    # Coarse, so that stripes and squares are still a few pixels wide when the object is scaled to twenty pixels.
    if texture == "striped":
        wave = np.sin(2 * np.pi * rng.uniform(0.9, 1.2) * s + phase)
    elif texture == "checked":
        pitch = np.pi * rng.uniform(1.3, 1.7)
        wave = np.sin(pitch * s + phase) * np.sin(pitch * t + other_phase) * 1.5
    elif texture == "dotted":
        pitch = 2 * np.pi * rng.uniform(1.0, 1.25)
        wave = np.cos(pitch * s + phase) + np.cos(pitch * t + other_phase) - 0.55
    elif texture == "plain":
        wave = np.full(u.shape, -1.0)
    else:
        raise ValueError(f"unknown texture '{texture}'")
    return np.clip(0.5 + 2.5 * wave, 0, 1)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a light colour and a dark colour of another hue.

    They differ in brightness because video compression subsamples colour. The light one is always first, because small
    transformers take very long to learn that dark on light is the same texture as light on dark.
    """
    hue = rng.uniform()
    light = colorsys.hsv_to_rgb(hue, rng.uniform(0.25, 0.75), rng.uniform(0.85, 1.0))
    dark = colorsys.hsv_to_rgb((hue + rng.uniform(0.2, 0.8)) % 1, rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.5))
    return 255 * np.array(light, np.float32), 255 * np.array(dark, np.float32)
