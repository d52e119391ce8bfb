"""From a scene to pictures and sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.scene_graph import Scene, SeenObject, generator
from lavish.data.synthetic.scenes import cluttered_background, cut_out, paste, to_pixels

_HISS_DB = (-30.0, -20.0)  # of the noise that is always there, against sounds at full gain
_FADE_SECONDS = 0.01


@dataclass(frozen=True)
class Medium:
    """How clips are rendered: segments and their length, pixels a side, frames and samples per second."""

    segments: int
    segment_seconds: float
    picture_size: int
    frame_rate: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.segments * self.segment_seconds


def render_pictures(seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> np.ndarray:
    """Return the frames of a scene as a video shows them, uint8 (frames, size, size, 3)."""
    count = round(medium.seconds * medium.frame_rate)
    return render_labelled(seed, scene, library, medium, [(n + 0.5) / medium.frame_rate for n in range(count)])[0]


def render_labelled(
    seed: int, scene: Scene, library: AssetLibrary, medium: Medium, times: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a scene's pictures at given times in seconds, and which object is seen where.

    The background stays, objects move; a picture shows what is seen in the segment that its time is in.

    Returns:
        Pictures, uint8 (times, size, size, 3), and masks, bool (objects, times, size, size): where an object is opaque
        by more than half and no later one covers it.
    """
    size = medium.picture_size
    background = cluttered_background(generator(seed, scene.split, scene.number, "pictures"), size)
    cut_outs = [_CutOut(item, scene.split, library, size) for item in scene.objects]
    pictures = np.empty((len(times), size, size, 3), np.uint8)
    masks = np.zeros((len(scene.objects), len(times), size, size), bool)
    for moment, time in enumerate(times):
        canvas = background.copy()
        for index, (item, cut_out_) in enumerate(zip(scene.objects, cut_outs, strict=True)):
            if item.seen.start <= time / medium.segment_seconds < item.seen.end:
                x, y, scale = position(item, time)
                rows, columns, alpha = paste(canvas, cut_out_.scaled(scale), x * size, y * size)
                opaque = alpha > 0.5
                masks[:index, moment, rows, columns] &= ~opaque
                masks[index, moment, rows, columns] = opaque
        pictures[moment] = to_pixels(canvas)
    return pictures, masks


class _CutOut:
    """An object's picture, scaled once for as long as its size stays."""

    def __init__(self, item: SeenObject, split: str, library: AssetLibrary, size: int) -> None:
        self._picture = library.picture(item.class_index, split, item.instance)
        self._extent = item.place.extent * size
        self._scale = math.nan
        self._scaled: np.ndarray

    def scaled(self, scale: float) -> np.ndarray:
        if scale != self._scale:
            self._scale, self._scaled = scale, cut_out(self._picture, self._extent * scale)
        return self._scaled


def position(item: SeenObject, time: float) -> tuple[float, float, float]:
    """Return an object's centre at a time in seconds, in parts of the picture's side, and the factor of its size."""
    pose = item.motion.at(time)
    return item.place.x + pose.dx, item.place.y + pose.dy, pose.scale


def render_sound(seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> np.ndarray:
    """Return the sound of a scene, float32 (samples,) within [-1, 1]: a little noise throughout, and what is heard."""
    rng = generator(seed, scene.split, scene.number, "sound")
    mixture = rng.standard_normal(round(medium.seconds * medium.sample_rate), dtype=np.float32)
    mixture *= 0.1 * 10 ** (rng.uniform(*_HISS_DB) / 20)
    for item in scene.sounds:
        first, last = (round(segment * medium.segment_seconds * medium.sample_rate) for segment in item.heard)
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
