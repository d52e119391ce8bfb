"""Scenes of actions: an action is the combination of a motion and a sound class.

The moving object is of a random class, so its appearance reveals nothing. Every motion is combined with every sound, so
video does not determine the sound and audio does not determine the motion. There may also be a static object, and a
sound of a class that belongs to no action.

A single frame does not reveal the motion. A coordinate that changes (horizontal, vertical or size) is a triangle wave
between two bounds with a random phase. Hence at every time each coordinate of every object, moving or static, is
uniformly distributed between its bounds and independent of the others. Only several frames together show which
coordinates change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import (
    Interval,
    Pose,
    Scene,
    SeenObject,
    balanced_class,
    generator,
    sample_sound,
    shuffled,
)
from lavish.data.synthetic.scenes import Place

# Whether a motion changes the horizontal position, the vertical position and the size.
MOTIONS = {
    "sliding": (True, False, False),
    "climbing": (False, True, False),
    "crossing": (True, True, False),
    "pulsing": (False, False, True),
}
MIN_SEGMENTS = 3
"""Two frames may show the same position, on the way there and on the way back; three cannot."""
_SOUNDS = 4  # maximum number of sound classes of the actions
_RANGE = (0.24, 0.76)  # of both coordinates of the centre, in units of the frame size
_EXTENT = (0.24, 0.5)  # of the longer side, in units of the frame size
_SPEED = (0.4, 0.65)  # fraction of the range per segment


@dataclass(frozen=True)
class Oscillation:
    """A motion in which each coordinate is constant or a triangle wave between its bounds.

    Attributes:
        start: phases of horizontal position, vertical position and size, of a period of 2: 0 is the lower bound, 1 the
            upper bound.
        speed: change of the phases per second, signed; 0 for a constant coordinate.
    """

    start: tuple[float, float, float]
    speed: tuple[float, float, float]

    def at(self, time: float) -> Pose:
        """Return the pose relative to a place at the centre of the frame with the largest extent."""
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
    """A clip of the action with the name `action`. If there are two objects, the moving one is drawn last."""

    action: str


def action_names(classes: Sequence[str]) -> list[str]:
    """Return the names of all actions for these asset classes: '<motion>_<sound>'."""
    names = [classes[index] for index in sound_classes(classes)]
    # Procedural classes are '<look>, <sound>', and the look is irrelevant here.
    short = [name.rpartition(", ")[2] for name in names]
    plain = plain_names(short if len(set(short)) == len(short) else names)
    return [f"{motion}_{name}" for motion in MOTIONS for name in plain]


def sound_classes(classes: Sequence[str]) -> list[int]:
    """Return the indices of the classes whose sounds belong to actions: at most four, evenly spaced."""
    count = min(_SOUNDS, len(classes))
    return [index * len(classes) // count for index in range(count)]


def sample_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    settings: RenderSettings,
    *,
    silent_object: float,
    unseen_sound: float,
) -> ActionScene:
    """Sample the scene of one clip; equal arguments give equal scenes, and actions are balanced within a split.

    Args:
        seed: of the whole composition.
        library: classes and numbers of instances.
        split: split of the instances.
        number: index of the clip in its split.
        settings: number and length of the segments.
        silent_object: probability of a static object.
        unseen_sound: probability of a sound that belongs to no action, for some of the segments; there is none with
            fewer than five classes.
    """
    rng = generator(seed, split, number, "scene")
    segments = settings.segments
    names, sounding = action_names(library.classes), sound_classes(library.classes)
    action = balanced_class(seed, split, number, len(names))
    moving_coordinates, sound = list(MOTIONS.values())[action // len(sounding)], sounding[action % len(sounding)]
    others = [index for index in range(len(library.classes)) if index not in sounding]

    def sample_mover(moving: tuple[bool, bool, bool]) -> SeenObject:
        speeds = rng.uniform(*_SPEED, size=3) * rng.choice((-1, 1), size=3) / settings.segment_seconds
        x, y, extent = rng.uniform(0, 2, size=3).tolist()
        motion = Oscillation((x, y, extent), (speeds[0] * moving[0], speeds[1] * moving[1], speeds[2] * moving[2]))
        look = int(rng.integers(len(library.classes)))
        instance = int(rng.integers(library.count_images(look, split)))
        return SeenObject(look, instance, Interval(0, segments), Place(0.5, 0.5, _EXTENT[1]), motion, any(moving))

    objects = [sample_mover(moving_coordinates)]
    if rng.uniform() < silent_object:
        objects.insert(0, sample_mover((False, False, False)))
    sounds = [sample_sound(rng, library, split, sound, Interval(0, segments), visible=True)]
    if rng.uniform() < unseen_sound and others:
        start, end = sorted(rng.choice(segments + 1, size=2, replace=False).tolist())
        other = int(rng.choice(others))
        sounds.append(sample_sound(rng, library, split, other, Interval(start, end), visible=False))
    return ActionScene(split, number, tuple(objects), shuffled(rng, sounds), names[action])
