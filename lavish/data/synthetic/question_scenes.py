"""Scenes for question answering: one to four objects in a row, and up to three sounds of visible or invisible objects.

All objects are seen throughout the clip. There may be two objects of a class, but only one sound of a class, so a sound
refers to its class and not to one of two equal objects. The numbers of objects, of sounds and of sounds with a visible
object are sampled such that one number reveals little about the others.
"""

from __future__ import annotations

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import (
    HeardSound,
    Interval,
    Scene,
    balanced_class,
    generator,
    sample_object,
    shuffled,
)
from lavish.data.synthetic.scenes import Place

# Numbers of objects and of their classes, all equally likely.
_OBJECTS_AND_CLASSES = ((1, 1), (2, 1), (2, 2), (2, 2), (3, 2), (3, 3), (3, 3), (4, 3), (4, 4))
MAX_OBJECTS = max(objects for objects, _ in _OBJECTS_AND_CLASSES)
_SOUNDS = {1: 0.2, 2: 0.35, 3: 0.45}  # number of sounds -> probability
_ALL_SEEN = 0.5  # probability that every sound has a visible object, if there are enough classes of objects
_ALL_THE_TIME = 0.25  # probability that a sound lasts for the whole clip
# Gains of the sounds of a clip, all different: further apart than assets differ in loudness.
_LEVELS_DB = (0.0, -7.0, -13.0)
# By number of objects: centres from left to right, and the longer side of an object, in units of the frame size.
_CENTRES = {1: (0.5,), 2: (0.27, 0.73), 3: (0.2, 0.5, 0.8), 4: (0.16, 0.39, 0.61, 0.84)}
_EXTENTS = {1: 0.5, 2: 0.44, 3: 0.4, 4: 0.36}


def sample_scene(seed: int, library: AssetLibrary, split: str, number: int, settings: RenderSettings) -> Scene:
    """Sample the scene of one clip; the numbers of objects and one class per clip are balanced within a split.

    Args:
        seed: of the whole composition.
        library: more than `MAX_OBJECTS` classes, and their numbers of instances.
        split: split of the instances.
        number: index of the clip in its split.
        settings: number of segments.
    """
    rng = generator(seed, split, number, "scene")
    count, classes = _OBJECTS_AND_CLASSES[balanced_class(seed, split, number, len(_OBJECTS_AND_CLASSES), part=5)]
    # Balanced, so that even in a small split every class is seen.
    first = balanced_class(seed, split, number, len(library.classes))
    others = [index for index in rng.permutation(len(library.classes)).tolist() if index != first]
    seen, others = [first, *others[: classes - 1]], others[classes - 1 :]

    n_sounds = int(rng.choice(list(_SOUNDS), p=list(_SOUNDS.values())))
    least, visible = max(0, n_sounds - len(others)), min(n_sounds, classes)
    if visible < n_sounds or rng.uniform() >= _ALL_SEEN:
        visible = int(rng.integers(least, min(visible, n_sounds - 1) + 1))
    heard = [*seen[:visible], *others[: n_sounds - visible]]

    levels = rng.permutation(_LEVELS_DB) + rng.uniform(-1, 0, size=len(_LEVELS_DB))
    row = _sample_row(rng, count)
    repeated = seen[int(rng.integers(classes))]
    shown = [*seen, *[repeated] * (count - classes)]
    objects = [
        sample_object(rng, library, split, index, Interval(0, settings.segments), row[place], sounding=index in heard)
        for index, place in zip(shown, rng.permutation(count), strict=True)
    ]
    sounds = [
        HeardSound(
            index,
            int(rng.integers(library.count_sounds(index, split))),
            _sample_interval(rng, settings.segments),
            float(level),
            visible=index in seen,
        )
        for index, level in zip(heard, levels, strict=False)
    ]
    return Scene(split, number, shuffled(rng, objects), shuffled(rng, sounds))


def _sample_row(rng: np.random.Generator, count: int) -> list[Place]:
    """Sample places from left to right; in a row of more than two, neighbours alternate between high and low."""
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


def _sample_interval(rng: np.random.Generator, segments: int) -> Interval:
    if segments == 1 or rng.uniform() < _ALL_THE_TIME:
        return Interval(0, segments)
    # The start is sampled first and uniformly: sounds that start at the same time have no order to ask about.
    start = int(rng.integers(segments))
    return Interval(start, int(rng.integers(start + 1, segments + (start > 0))))
