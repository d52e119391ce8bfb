"""Scenes: the content of a composed clip before rendering, as objects and sounds with times and places.

The scenes of each layout are sampled by a module of its own (`event_scenes`, `action_scenes`, `question_scenes` and
`layouts.avsbench`) from the building blocks in this module.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.scenes import Place

_T = TypeVar("_T")

_GAIN_DB = (-10.0, 0.0)


class Interval(NamedTuple):
    """A range of segments: `start` <= segment < `end`."""

    start: int
    end: int


class Pose(NamedTuple):
    """The pose of an object relative to its place: an offset, in units of the frame size, and a scale factor."""

    dx: float
    dy: float
    scale: float


class Motion(Protocol):
    """The motion of an object. Implementations are frozen dataclasses, whose fields are written to scenes.jsonl."""

    def at(self, time: float) -> Pose:
        """Return the pose at a time, in seconds from the start of the clip."""


@dataclass(frozen=True)
class Sway:
    """A sinusoidal motion about the place: amplitude `reach` (of the frame size), `rate` in Hz, phases in cycles."""

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
    """A visible object; `sounding` tells whether its sound is in the clip."""

    class_index: int
    instance: int
    seen: Interval
    place: Place
    motion: Motion
    sounding: bool


@dataclass(frozen=True)
class HeardSound:
    """An audible sound; `visible` tells whether its object is in the clip."""

    class_index: int
    instance: int
    heard: Interval
    gain_db: float
    visible: bool


@dataclass(frozen=True)
class Scene:
    """The content of one clip. Subclasses add fields that a layout needs; all fields are written to scenes.jsonl.

    Attributes:
        split: train, val or test.
        number: index among the clips of its split.
        objects: in drawing order: later ones cover earlier ones. The order is random unless a layout states otherwise.
        sounds: in random order. A class may occur more than once among the objects and among the sounds.
    """

    split: str
    number: int
    objects: tuple[SeenObject, ...]
    sounds: tuple[HeardSound, ...]


_SPLIT_NUMBERS = {"train": 0, "val": 1, "test": 2}


def generator(seed: int, split: str, number: int, part: Literal["scene", "frames", "audio"]) -> np.random.Generator:
    """Return the random generator of one part of one clip, independent of all others."""
    return np.random.default_rng([seed, _SPLIT_NUMBERS[split], number, ("scene", "frames", "audio").index(part)])


def balanced_class(seed: int, split: str, number: int, classes: int, *, part: int = 3) -> int:
    """Return the class of clip `number`, such that the classes of a split are balanced.

    Every block of `classes` consecutive clips contains each class once, in random order. Other properties that are
    balanced independently use another `part` of the seed.
    """
    block, position = divmod(number, classes)
    order = np.random.default_rng([seed, _SPLIT_NUMBERS[split], block, part, classes]).permutation(classes)
    return int(order[position])


def sample_sway(rng: np.random.Generator) -> Sway:
    """Sample a small motion about the place."""
    reach, rate, phase_x, phase_y = rng.uniform((0.01, 0.2, 0, 0), (0.035, 0.7, 1, 1)).tolist()
    return Sway(reach, rate, phase_x, phase_y)


def sample_gain(rng: np.random.Generator) -> float:
    """Sample the gain of a sound in decibels, at most 0."""
    return float(rng.uniform(*_GAIN_DB))


def sample_object(
    rng: np.random.Generator,
    library: AssetLibrary,
    split: str,
    class_index: int,
    seen: Interval,
    place: Place,
    *,
    sounding: bool,
) -> SeenObject:
    """Sample the instance and the motion of an object of a given class, time and place."""
    instance = int(rng.integers(library.count_images(class_index, split)))
    return SeenObject(class_index, instance, seen, place, sample_sway(rng), sounding)


def sample_sound(
    rng: np.random.Generator, library: AssetLibrary, split: str, class_index: int, heard: Interval, *, visible: bool
) -> HeardSound:
    """Sample the instance and the gain of a sound of a given class and time."""
    instance = int(rng.integers(library.count_sounds(class_index, split)))
    return HeardSound(class_index, instance, heard, sample_gain(rng), visible)


def shuffled(rng: np.random.Generator, items: Sequence[_T]) -> tuple[_T, ...]:
    """Return the items in random order."""
    return tuple(items[position] for position in rng.permutation(len(items)))
