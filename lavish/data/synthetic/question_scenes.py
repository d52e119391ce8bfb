"""Scenes to ask about: one to four things in a row, up to three kinds of sound, of things that are seen or not.

Every thing is seen throughout. A kind of thing may be there twice; a kind is heard at most once, so a sound belongs to
its kind and not to one of two alike. How many things are seen, how many sounds are heard and how many of these come
from things that are seen are drawn one after the other: knowing one number tells little about another one.
"""

from __future__ import annotations

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.scene_graph import (
    HeardSound,
    Interval,
    Scene,
    SeenObject,
    balanced_class,
    draw_sway,
    generator,
)
from lavish.data.synthetic.scenes import Place

# How many things are seen and of how many kinds; each as often as it stands here.
_CASTS = ((1, 1), (2, 1), (2, 2), (2, 2), (3, 2), (3, 3), (3, 3), (4, 3), (4, 4))
MOST_THINGS = max(things for things, _ in _CASTS)
_SOUNDS = {1: 0.2, 2: 0.35, 3: 0.45}  # how many sounds are heard, and the chance of it
_ALL_SEEN = 0.5  # chance that every sound comes from a thing that is seen, where so many kinds are seen
_ALL_THE_TIME = 0.25  # chance that a sound never pauses
# Of the sounds of a clip, each of which gets another one: further apart than assets differ in loudness.
_LEVELS_DB = (0.0, -7.0, -13.0)
# By number of things: centres from left to right, and the longer side of a thing, in parts of the picture's side.
_CENTRES = {1: (0.5,), 2: (0.27, 0.73), 3: (0.2, 0.5, 0.8), 4: (0.16, 0.39, 0.61, 0.84)}
_EXTENTS = {1: 0.5, 2: 0.44, 3: 0.4, 4: 0.36}


def draw_scene(seed: int, library: AssetLibrary, split: str, number: int, *, segments: int) -> Scene:
    """Draw the scene of one clip; numbers of things are balanced within a split, and so is one class of each clip.

    Args:
        seed: of the whole composition.
        library: classes, more than there are things, and numbers of instances.
        split: whose instances to use.
        number: place of the clip among those of its split.
        segments: of the clip.
    """
    rng = generator(seed, split, number, "scene")
    things, kinds = _CASTS[balanced_class(seed, split, number, len(_CASTS), part=5)]
    # However few clips there are, every class is seen.
    first = balanced_class(seed, split, number, len(library.classes))
    others = [index for index in rng.permutation(len(library.classes)).tolist() if index != first]
    seen, others = [first, *others[: kinds - 1]], others[kinds - 1 :]

    sounds = int(rng.choice(list(_SOUNDS), p=list(_SOUNDS.values())))
    least, visible = max(0, sounds - len(others)), min(sounds, kinds)
    if visible < sounds or rng.uniform() >= _ALL_SEEN:
        visible = int(rng.integers(least, min(visible, sounds - 1) + 1))
    heard = [*seen[:visible], *others[: sounds - visible]]

    levels = rng.permutation(_LEVELS_DB) + rng.uniform(-1, 0, size=len(_LEVELS_DB))
    row = _draw_row(rng, things)
    twice = seen[int(rng.integers(kinds))]
    shown = [*seen, *[twice] * (things - kinds)]
    objects = [
        SeenObject(
            index,
            int(rng.integers(library.pictures(index, split))),
            Interval(0, segments),
            row[place],
            draw_sway(rng),
            index in heard,
        )
        for index, place in zip(shown, rng.permutation(things), strict=True)
    ]
    voices = [
        HeardSound(
            index,
            int(rng.integers(library.sounds(index, split))),
            _draw_interval(rng, segments),
            float(level),
            visible=index in seen,
        )
        for index, level in zip(heard, levels, strict=False)
    ]
    return Scene(
        split,
        number,
        tuple(objects[place] for place in rng.permutation(things)),
        tuple(voices[place] for place in rng.permutation(len(voices))),
    )


def _draw_row(rng: np.random.Generator, count: int) -> list[Place]:
    """Draw places from left to right; neighbours of a full row stand higher and lower in turn."""
    heights = rng.uniform(0.35, 0.65, size=count)
    if count > 2:
        up = int(rng.integers(2))
        heights = np.array([0.3 if (place + up) % 2 else 0.7 for place in range(count)]) + (heights - 0.5) / 3
    offsets = rng.uniform(-0.03, 0.03, size=count)
    extents = _EXTENTS[count] * rng.uniform(0.9, 1.1, size=count)
    return [
        Place(float(centre + offset), float(height), float(extent))
        for centre, offset, height, extent in zip(_CENTRES[count], offsets, heights, extents, strict=True)
    ]


def _draw_interval(rng: np.random.Generator, segments: int) -> Interval:
    if segments == 1 or rng.uniform() < _ALL_THE_TIME:
        return Interval(0, segments)
    # By its start first: sounds that begin at the same time have no order.
    start = int(rng.integers(segments))
    return Interval(start, int(rng.integers(start + 1, segments + (start > 0))))
