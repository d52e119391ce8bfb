"""What happens in a composed clip: which things are seen and heard, when and where; no pixel and no sample yet.

A clip has one main class. Its object is seen in one interval and its sound is heard in another one; where both are,
and nowhere else, is the event. An object of another class may be seen that never sounds, and a sound of a third class
be heard whose object is never seen. Both are drawn by the same rules as the main ones, so neither the pictures nor the
sound alone tell what the clip is about: it is the class that is seen *and* heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lavish.data.assets import AssetLibrary
from lavish.data.scenes import Place, draw_places

# Mean share of a clip that its event takes. In three steps: 42 % background.
_EVENT_SHARE = 0.58
_GAIN_DB = (-10.0, 0.0)


class Interval(NamedTuple):
    """Steps of a clip: `start` <= step < `end`."""

    start: int
    end: int


class Motion(NamedTuple):
    """How an object sways about its place: in parts of the picture's side, swings a second, parts of a swing."""

    reach: float
    rate: float
    phase_x: float
    phase_y: float


@dataclass(frozen=True)
class SeenObject:
    """An object in the pictures; `sounding` says whether its sound is in the clip."""

    class_index: int
    instance: int
    seen: Interval
    place: Place
    motion: Motion
    sounding: bool


@dataclass(frozen=True)
class HeardSound:
    """A sound; `visible` says whether its object is in the clip."""

    class_index: int
    instance: int
    heard: Interval
    gain_db: float
    visible: bool


@dataclass(frozen=True)
class Scene:
    """One clip: its class, its event, and what is seen and heard.

    Attributes:
        split: train, val or test.
        number: place among the clips of its split.
        class_index: of the event.
        event: steps in which the class is both seen and heard, at least one.
        objects: in drawing order, which tells nothing.
        sounds: in an order that tells nothing.
    """

    split: str
    number: int
    class_index: int
    event: Interval
    objects: tuple[SeenObject, ...]
    sounds: tuple[HeardSound, ...]


def draw_scene(
    seed: int,
    library: AssetLibrary,
    split: Literal["train", "val", "test"],
    number: int,
    *,
    steps: int,
    silent_object: float,
    unseen_sound: float,
) -> Scene:
    """Draw the scene of one clip; equal arguments give equal scenes, and classes are balanced within a split.

    Args:
        seed: of the whole composition.
        library: classes and numbers of instances; nothing of it is drawn here.
        split: whose instances to use.
        number: place of the clip among those of its split.
        steps: segments of the clip.
        silent_object: chance of an object that is seen but never heard.
        unseen_sound: chance of a sound whose object is never seen.
    """
    rng = generator(seed, split, number, "scene")
    classes = len(library.classes)
    class_index = _class_of(seed, split, number, classes)
    others = [index for index in rng.permutation(classes).tolist() if index != class_index]

    seen, heard = draw_intervals(rng, steps)
    objects, sounds = [(class_index, seen, True)], [(class_index, heard, True)]
    # The others' intervals come from the same draw as the main ones': their lengths betray nothing.
    if rng.uniform() < silent_object:
        objects.append((others[0], draw_intervals(rng, steps)[0], False))
    if rng.uniform() < unseen_sound:
        sounds.append((others[1], draw_intervals(rng, steps)[1], False))

    places = draw_places(rng, len(objects))
    seen_objects = [
        SeenObject(index, int(rng.integers(library.pictures(index, split))), seen, place, _draw_motion(rng), sounding)
        for (index, seen, sounding), place in zip(objects, places, strict=True)
    ]
    heard_sounds = [
        HeardSound(
            index, int(rng.integers(library.sounds(index, split))), heard, float(rng.uniform(*_GAIN_DB)), visible
        )
        for index, heard, visible in sounds
    ]
    return Scene(
        split,
        number,
        class_index,
        Interval(max(seen.start, heard.start), min(seen.end, heard.end)),
        tuple(seen_objects[place] for place in rng.permutation(len(seen_objects))),
        tuple(heard_sounds[place] for place in rng.permutation(len(heard_sounds))),
    )


def draw_intervals(rng: np.random.Generator, steps: int) -> tuple[Interval, Interval]:
    """Draw when a thing is seen and when it is heard; both are contiguous and overlap in at least one step.

    The length of the overlap varies widely about its mean; on either side of it one of the two may go on, never both.
    """
    length = 1
    if steps > 1:
        # Beta-binomial, as flat as its mean allows.
        mean = float(np.clip((_EVENT_SHARE * steps - 1) / (steps - 1), 0.05, 0.95))
        length += int(rng.binomial(steps - 1, rng.beta(2 * mean, 2 * (1 - mean))))
    start = int(rng.integers(steps - length + 1))
    bounds = [[start, start + length], [start, start + length]]  # of what is seen, of what is heard
    for side, room in enumerate((start, steps - start - length)):
        # Seen, heard or neither goes on.
        stream = int(rng.integers(3))
        if room and stream < 2:
            bounds[stream][side] += int(rng.integers(1, room + 1)) * (-1, 1)[side]
    return Interval(*bounds[0]), Interval(*bounds[1])


def generator(seed: int, split: str, number: int, part: Literal["scene", "pictures", "sound"]) -> np.random.Generator:
    """Return the source of randomness of one part of one clip, independent of all others."""
    return np.random.default_rng([seed, _SPLIT_NUMBERS[split], number, ("scene", "pictures", "sound").index(part)])


_SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}


def _class_of(seed: int, split: str, number: int, classes: int) -> int:
    # Every run of as many clips as there are classes holds each class once, in an order of its own.
    block, place = divmod(number, classes)
    order = np.random.default_rng([seed, _SPLIT_NUMBERS[split], block, 3, classes]).permutation(classes)
    return int(order[place])


def _draw_motion(rng: np.random.Generator) -> Motion:
    reach, rate, phase_x, phase_y = rng.uniform((0.01, 0.2, 0, 0), (0.035, 0.7, 1, 1)).tolist()
    return Motion(reach, rate, phase_x, phase_y)
