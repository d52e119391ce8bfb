"""Scenes of events: which class is both seen and heard, and when.

A clip has one main class. Its object is seen in one interval and its sound is heard in another one; where both are,
and nowhere else, is the event. An object of another class may be seen that never sounds, and a sound of a third class
be heard whose object is never seen. Both are drawn by the same rules as the main ones, so neither the pictures nor the
sound alone tell what the clip is about: it is the class that is seen *and* heard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.scene_graph import (
    HeardSound,
    Interval,
    Scene,
    SeenObject,
    balanced_class,
    draw_gain,
    draw_sway,
    generator,
)
from lavish.data.synthetic.scenes import draw_places

# Mean share of a clip that its event takes. In three segments: 42 % background.
_EVENT_SHARE = 0.58


@dataclass(frozen=True)
class EventScene(Scene):
    """A clip with an event.

    Attributes:
        class_index: of the event.
        event: segments in which the class is both seen and heard, at least one.
    """

    class_index: int
    event: Interval


def draw_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    *,
    segments: int,
    silent_object: float,
    unseen_sound: float,
) -> EventScene:
    """Draw the scene of one clip; equal arguments give equal scenes, and classes are balanced within a split.

    Args:
        seed: of the whole composition.
        library: classes and numbers of instances; nothing of it is drawn here.
        split: whose instances to use.
        number: place of the clip among those of its split.
        segments: segments of the clip.
        silent_object: chance of an object that is seen but never heard.
        unseen_sound: chance of a sound whose object is never seen.
    """
    rng = generator(seed, split, number, "scene")
    classes = len(library.classes)
    class_index = balanced_class(seed, split, number, classes)
    others = [index for index in rng.permutation(classes).tolist() if index != class_index]

    seen, heard = draw_intervals(rng, segments)
    objects, sounds = [(class_index, seen, True)], [(class_index, heard, True)]
    # The others' intervals come from the same draw as the main ones': their lengths betray nothing.
    if rng.uniform() < silent_object:
        objects.append((others[0], draw_intervals(rng, segments)[0], False))
    if rng.uniform() < unseen_sound:
        sounds.append((others[1], draw_intervals(rng, segments)[1], False))

    places = draw_places(rng, len(objects))
    seen_objects = [
        SeenObject(index, int(rng.integers(library.pictures(index, split))), seen, place, draw_sway(rng), sounding)
        for (index, seen, sounding), place in zip(objects, places, strict=True)
    ]
    heard_sounds = [
        HeardSound(index, int(rng.integers(library.sounds(index, split))), heard, draw_gain(rng), visible)
        for index, heard, visible in sounds
    ]
    return EventScene(
        split,
        number,
        tuple(seen_objects[place] for place in rng.permutation(len(seen_objects))),
        tuple(heard_sounds[place] for place in rng.permutation(len(heard_sounds))),
        class_index,
        Interval(max(seen.start, heard.start), min(seen.end, heard.end)),
    )


def draw_intervals(rng: np.random.Generator, segments: int) -> tuple[Interval, Interval]:
    """Draw when a thing is seen and when it is heard; both are contiguous and overlap in at least one segment.

    The length of the overlap varies widely about its mean; on either side of it one of the two may go on, never both.
    """
    length = 1
    if segments > 1:
        # Beta-binomial, as flat as its mean allows.
        mean = float(np.clip((_EVENT_SHARE * segments - 1) / (segments - 1), 0.05, 0.95))
        length += int(rng.binomial(segments - 1, rng.beta(2 * mean, 2 * (1 - mean))))
    start = int(rng.integers(segments - length + 1))
    bounds = [[start, start + length], [start, start + length]]  # of what is seen, of what is heard
    for side, room in enumerate((start, segments - start - length)):
        # Seen, heard or neither goes on.
        stream = int(rng.integers(3))
        if room and stream < 2:
            bounds[stream][side] += int(rng.integers(1, room + 1)) * (-1, 1)[side]
    return Interval(*bounds[0]), Interval(*bounds[1])
