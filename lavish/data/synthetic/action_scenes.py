"""What happens in a clip of an action: a way to move and a sound, whatever it is that moves.

An action is a motion together with a class of sounds. Something of a random class makes the motion: what it looks like
tells nothing. Every motion comes with every sound, so pictures leave the sound open and the sound leaves the motion
open. Another thing may stand by without moving; another sound, of a class that belongs to no action, may be heard.

No single picture tells the motion. A coordinate (across, down, or size) that moves runs to and fro between two bounds
at constant speed: a point on a circle, of which both halves are laid onto the same range. All start at a random point
of their circle, and a random point turned by whatever angle is a random point again. So at every time each coordinate
of every motion, and of what stands by, is distributed evenly between its bounds, independently of the others. Only
several pictures show which coordinates change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.scene_graph import (
    HeardSound,
    Interval,
    Pose,
    Scene,
    SeenObject,
    balanced_class,
    draw_gain,
    generator,
)
from lavish.data.synthetic.scenes import Place

# Which of the coordinates across, down and size a motion changes.
MOTIONS = {
    "sliding": (True, False, False),
    "climbing": (False, True, False),
    "crossing": (True, True, False),
    "pulsing": (False, False, True),
}
MIN_SEGMENTS = 3
"""Of two pictures, both may show the same place, one on the way there and one on the way back; three cannot."""
_SOUNDS = 4  # classes of sounds that actions have, at most
_RANGE = (0.24, 0.76)  # of the centre, across and down, in parts of the picture's side
_EXTENT = (0.24, 0.5)  # of the longer side, likewise
_SPEED = (0.4, 0.65)  # parts of the range from the centre of one segment to that of the next


@dataclass(frozen=True)
class ToAndFro:
    """A motion of which each coordinate stays, or runs to and fro between its bounds.

    Attributes:
        start: of across, down and size: points of a circle of circumference 2, on which 0 is the lower bound, 1 the
            upper one, and both ways between them show the same.
        speed: per second, signed; 0 for what stays.
    """

    start: tuple[float, float, float]
    speed: tuple[float, float, float]

    def at(self, time: float) -> Pose:
        """Return the pose, against a place in the middle of the picture and the largest extent."""
        across, down, size = (
            1 - abs((start + speed * time) % 2 - 1) for start, speed in zip(self.start, self.speed, strict=True)
        )
        low, high = _RANGE
        smallest = _EXTENT[0] / _EXTENT[1]
        return Pose(
            low + (high - low) * across - 0.5, low + (high - low) * down - 0.5, smallest + (1 - smallest) * size
        )


@dataclass(frozen=True)
class ActionScene(Scene):
    """A clip of the action of this name, see :func:`actions`; of two objects, the one that moves is drawn last."""

    action: str


def actions(classes: Sequence[str]) -> list[str]:
    """Return the names of all actions with the sounds of these classes of assets: '<motion>_<sound>'."""
    names = [classes[index] for index in sounds(classes)]
    # Procedural classes are '<look>, <sound>', and looks mean nothing here.
    short = [name.rpartition(", ")[2] for name in names]
    plain = plain_names(short if len(set(short)) == len(short) else names)
    return [f"{motion}_{name}" for motion in MOTIONS for name in plain]


def sounds(classes: Sequence[str]) -> list[int]:
    """Return the classes whose sounds belong to actions: some of them, evenly spread, so that others are left."""
    count = min(_SOUNDS, len(classes))
    return [index * len(classes) // count for index in range(count)]


def draw_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    *,
    segments: int,
    segment_seconds: float,
    silent_object: float,
    unseen_sound: float,
) -> ActionScene:
    """Draw the scene of one clip; equal arguments give equal scenes, and actions are balanced within a split.

    Args:
        seed: of the whole composition.
        library: classes and numbers of instances; nothing of it is drawn here.
        split: whose instances to use.
        number: place of the clip among those of its split.
        segments: of the clip.
        segment_seconds: length of one.
        silent_object: chance of an object that stands by.
        unseen_sound: chance of a sound that belongs to no action, for some of the segments; none with fewer than five
            classes.
    """
    rng = generator(seed, split, number, "scene")
    names, sounding = actions(library.classes), sounds(library.classes)
    action = balanced_class(seed, split, number, len(names))
    motion, sound = list(MOTIONS)[action // len(sounding)], sounding[action % len(sounding)]
    others = [index for index in range(len(library.classes)) if index not in sounding]

    def seen(moving: tuple[bool, bool, bool]) -> SeenObject:
        speeds = rng.uniform(*_SPEED, size=3) * rng.choice((-1, 1), size=3) / segment_seconds
        x, y, extent = rng.uniform(0, 2, size=3).tolist()
        path = ToAndFro((x, y, extent), (speeds[0] * moving[0], speeds[1] * moving[1], speeds[2] * moving[2]))
        look = int(rng.integers(len(library.classes)))
        instance = int(rng.integers(library.pictures(look, split)))
        return SeenObject(look, instance, Interval(0, segments), Place(0.5, 0.5, _EXTENT[1]), path, any(moving))

    def heard(index: int, interval: Interval, visible: bool) -> HeardSound:
        return HeardSound(index, int(rng.integers(library.sounds(index, split))), interval, draw_gain(rng), visible)

    objects = [seen(MOTIONS[motion])]
    if rng.uniform() < silent_object:
        objects.insert(0, seen((False, False, False)))
    sounds_heard = [heard(sound, Interval(0, segments), True)]
    if rng.uniform() < unseen_sound and others:
        start, end = sorted(rng.choice(segments + 1, size=2, replace=False).tolist())
        sounds_heard.append(heard(int(rng.choice(others)), Interval(start, end), False))
    return ActionScene(
        split,
        number,
        tuple(objects),
        tuple(sounds_heard[place] for place in rng.permutation(len(sounds_heard))),
        names[action],
    )
