"""What a composed clip is made of: which things are seen and heard, when and where; no pixel and no sample yet.

How a scene is drawn is a matter of the layout, whose module draws it: what makes an event is not what makes a question.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from lavish.data.synthetic.scenes import Place

_GAIN_DB = (-10.0, 0.0)


class Interval(NamedTuple):
    """Segments of a clip: `start` <= segment < `end`."""

    start: int
    end: int


class Pose(NamedTuple):
    """How an object differs from its place at a moment: moved by parts of the picture's side, and its size a factor."""

    dx: float
    dy: float
    scale: float


class Motion(Protocol):
    """How an object moves; implementations are frozen dataclasses, whose fields appear in scenes.jsonl."""

    def at(self, time: float) -> Pose:
        """Return the pose at a time in seconds from the start of the clip."""


@dataclass(frozen=True)
class Sway:
    """A motion about the place: `reach` in parts of the picture's side, swings a second, phases in parts of a swing."""

    reach: float
    rate: float
    phase_x: float
    phase_y: float

    def at(self, time: float) -> Pose:
        return Pose(
            self.reach * math.sin(2 * math.pi * (self.rate * time + self.phase_x)),
            self.reach * math.sin(2 * math.pi * (self.rate * time + self.phase_y)),
            1.0,
        )


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
    """One clip. What else a layout has to know of a clip is added by a subclass, and appears in scenes.jsonl.

    Attributes:
        split: train, val or test.
        number: place among the clips of its split.
        objects: in drawing order: later ones lie before earlier ones. Unless a layout says otherwise it tells nothing.
        sounds: in an order that tells nothing. A class may be seen, or heard, more than once.
    """

    split: str
    number: int
    objects: tuple[SeenObject, ...]
    sounds: tuple[HeardSound, ...]


def generator(seed: int, split: str, number: int, part: Literal["scene", "pictures", "sound"]) -> np.random.Generator:
    """Return the source of randomness of one part of one clip, independent of all others."""
    return np.random.default_rng([seed, _SPLIT_NUMBERS[split], number, ("scene", "pictures", "sound").index(part)])


_SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}


def balanced_class(seed: int, split: str, number: int, classes: int, *, part: int = 3) -> int:
    """Return the class of clip `number`, so that the classes of a split are balanced.

    Every run of as many clips as there are classes holds each class once, in an order of its own. What else is to be
    balanced, independently, takes another `part` of the seed.
    """
    block, place = divmod(number, classes)
    order = np.random.default_rng([seed, _SPLIT_NUMBERS[split], block, part, classes]).permutation(classes)
    return int(order[place])


def draw_sway(rng: np.random.Generator) -> Sway:
    """Draw a small motion about the place."""
    reach, rate, phase_x, phase_y = rng.uniform((0.01, 0.2, 0, 0), (0.035, 0.7, 1, 1)).tolist()
    return Sway(reach, rate, phase_x, phase_y)


def draw_gain(rng: np.random.Generator) -> float:
    """Draw the level of a sound in decibels, at most 0."""
    return float(rng.uniform(*_GAIN_DB))
