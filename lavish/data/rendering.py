"""From a scene to pictures and sound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lavish.data.assets import AssetLibrary
from lavish.data.scene_graph import Scene, SeenObject, generator
from lavish.data.scenes import cluttered_background, cut_out, paste, to_pixels

_HISS_DB = (-30.0, -20.0)  # of the noise that is always there, against sounds at full gain
_FADE_SECONDS = 0.01


@dataclass(frozen=True)
class Medium:
    """How clips are rendered: steps and their length, pixels a side, frames and samples per second."""

    steps: int
    step_seconds: float
    picture_size: int
    frame_rate: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.steps * self.step_seconds


def render_pictures(seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> np.ndarray:
    """Return the frames of a scene, uint8 (frames, size, size, 3).

    The background stays, objects sway a little; a frame shows what is seen in the step that the frame's middle is in.
    """
    size = medium.picture_size
    background = cluttered_background(generator(seed, scene.split, scene.number, "pictures"), size)
    scaled = [
        cut_out(library.picture(item.class_index, scene.split, item.instance), item.place.extent * size)
        for item in scene.objects
    ]
    frames = np.empty((round(medium.seconds * medium.frame_rate), size, size, 3), np.uint8)
    for number in range(len(frames)):
        time = (number + 0.5) / medium.frame_rate
        canvas = background.copy()
        for item, picture in zip(scene.objects, scaled, strict=True):
            if item.seen.start <= time / medium.step_seconds < item.seen.end:
                x, y = position(item, time)
                paste(canvas, picture, x * size, y * size)
        frames[number] = to_pixels(canvas)
    return frames


def position(item: SeenObject, time: float) -> tuple[float, float]:
    """Return where an object's centre is at a time in seconds, in parts of the picture's side."""
    place, motion = item.place, item.motion
    x = place.x + motion.reach * math.sin(2 * math.pi * (motion.rate * time + motion.phase_x))
    y = place.y + motion.reach * math.sin(2 * math.pi * (motion.rate * time + motion.phase_y))
    return x, y


def render_sound(seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> np.ndarray:
    """Return the sound of a scene, float32 (samples,) within [-1, 1]: a little noise throughout, and what is heard."""
    rng = generator(seed, scene.split, scene.number, "sound")
    mixture = rng.standard_normal(round(medium.seconds * medium.sample_rate), dtype=np.float32)
    mixture *= 0.1 * 10 ** (rng.uniform(*_HISS_DB) / 20)
    for item in scene.sounds:
        first, last = (round(step * medium.step_seconds * medium.sample_rate) for step in item.heard)
        seconds = (last - first) / medium.sample_rate
        sound = library.sound(item.class_index, scene.split, item.instance, medium.sample_rate, seconds)
        mixture[first:last] += 10 ** (item.gain_db / 20) * _faded(sound, medium.sample_rate)
    return mixture / max(1.0, float(np.abs(mixture).max()))


def _faded(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    # A sound cut off at once would click, and the click would be heard in the segment beside it.
    length = min(round(_FADE_SECONDS * sample_rate), len(sound) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    faded = sound.copy()
    faded[:length] *= ramp
    faded[len(sound) - length :] *= ramp[::-1]
    return faded
