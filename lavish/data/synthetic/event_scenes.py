"""Scenes of audio-visual events: one class that is both seen and heard during the event.

A clip has one event class. Its object is seen in one interval and its sound is heard in another; the event is the
intersection of the two. There may also be a silent object of another class, and a sound of a third class whose object
is not seen. Both are sampled in the same way as those of the event class, so neither video nor audio alone reveals the
label: it is the class that is seen *and* heard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import (
    Interval,
    Scene,
    balanced_class,
    generator,
    sample_object,
    sample_sound,
    shuffled,
)
from lavish.data.synthetic.scenes import sample_places

# Mean fraction of a clip covered by its event. With three segments, 42 % are background.
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


def sample_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    settings: RenderSettings,
    *,
    silent_object: float,
    unseen_sound: float,
) -> EventScene:
    """Sample the scene of one clip; equal arguments give equal scenes, and classes are balanced within a split.

    Args:
        seed: of the whole composition.
        library: classes and numbers of instances.
        split: split of the instances.
        number: index of the clip in its split.
        settings: number of segments.
        silent_object: probability of an object that is seen but not heard.
        unseen_sound: probability of a sound whose object is not seen.
    """
    rng = generator(seed, split, number, "scene")
    segments, classes = settings.segments, len(library.classes)
    class_index = balanced_class(seed, split, number, classes)
    others = [index for index in rng.permutation(classes).tolist() if index != class_index]

    seen, heard = sample_intervals(rng, segments)
    objects, sounds = [(class_index, seen, True)], [(class_index, heard, True)]
    # Intervals of the other classes are sampled in the same way, so that their lengths reveal nothing.
    if rng.uniform() < silent_object:
        objects.append((others[0], sample_intervals(rng, segments)[0], False))
    if rng.uniform() < unseen_sound:
        sounds.append((others[1], sample_intervals(rng, segments)[1], False))

    places = sample_places(rng, len(objects))
    seen_objects = [
        sample_object(rng, library, split, index, interval, place, sounding=sounding)
        for (index, interval, sounding), place in zip(objects, places, strict=True)
    ]
    heard_sounds = [
        sample_sound(rng, library, split, index, interval, visible=visible) for index, interval, visible in sounds
    ]
    return EventScene(
        split,
        number,
        shuffled(rng, seen_objects),
        shuffled(rng, heard_sounds),
        class_index,
        Interval(max(seen.start, heard.start), min(seen.end, heard.end)),
    )


def sample_intervals(rng: np.random.Generator, segments: int) -> tuple[Interval, Interval]:
    """Sample the intervals in which a class is seen and heard; they overlap in at least one segment.

    The length of the overlap varies widely about its mean. On each side of it, at most one of the two continues.
    """
    length = 1
    if segments > 1:
        # Beta-binomial with a high variance for its mean.
        mean = float(np.clip((_EVENT_SHARE * segments - 1) / (segments - 1), 0.05, 0.95))
        length += int(rng.binomial(segments - 1, rng.beta(2 * mean, 2 * (1 - mean))))
    start = int(rng.integers(segments - length + 1))
    bounds = [[start, start + length], [start, start + length]]  # seen, heard
    for side, room in enumerate((start, segments - start - length)):
        # Either the first, the second or neither of them continues.
        stream = int(rng.integers(3))
        if room and stream < 2:
            bounds[stream][side] += int(rng.integers(1, room + 1)) * (-1, 1)[side]
    return Interval(*bounds[0]), Interval(*bounds[1])
