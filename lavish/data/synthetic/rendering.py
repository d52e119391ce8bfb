"""Rendering scenes: frames, masks and audio."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.scene_graph import Scene, SeenObject, generator
from lavish.data.synthetic.scenes import cluttered_background, paste, scale_cut_out, to_pixels

_NOISE_DB = (-30.0, -20.0)  # level of the background noise relative to sounds at full gain
_FADE_SECONDS = 0.01


@dataclass(frozen=True)
class RenderSettings:
    """How clips are rendered: segments and their length, frame size in pixels, frames and samples per second."""

    segments: int
    segment_seconds: float
    picture_size: int
    frame_rate: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Length of a clip in seconds."""
        return self.segments * self.segment_seconds


def render_frames(seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> np.ndarray:
    """Return the video frames of a scene, uint8 (frames, size, size, 3)."""
    count = round(settings.seconds * settings.frame_rate)
    return render_labelled(seed, scene, library, settings, [(n + 0.5) / settings.frame_rate for n in range(count)])[0]


def render_labelled(
    seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings, times: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of a scene at given times in seconds, and the masks of its objects.

    The background is static, objects move. A frame shows the objects that are seen in the segment of its time.

    Returns:
        Frames, uint8 (times, size, size, 3), and masks, bool (objects, times, size, size): the pixels where an object
        has an alpha above 0.5 and is not covered by a later one.
    """
    size = settings.picture_size
    background = cluttered_background(generator(seed, scene.split, scene.number, "frames"), size)
    cut_outs = [_CutOut(item, scene.split, library, size) for item in scene.objects]
    frames = np.empty((len(times), size, size, 3), np.uint8)
    masks = np.zeros((len(scene.objects), len(times), size, size), bool)
    for frame, time in enumerate(times):
        canvas = background.copy()
        for index, (item, cut_out) in enumerate(zip(scene.objects, cut_outs, strict=True)):
            if item.seen.start <= time / settings.segment_seconds < item.seen.end:
                x, y, scale = position(item, time)
                rows, columns, alpha = paste(canvas, cut_out.scaled(scale), x * size, y * size)
                opaque = alpha > 0.5
                masks[:index, frame, rows, columns] &= ~opaque
                masks[index, frame, rows, columns] = opaque
        frames[frame] = to_pixels(canvas)
    return frames, masks


class _CutOut:
    """The image of an object, with a cache of the last scale."""

    def __init__(self, item: SeenObject, split: str, library: AssetLibrary, size: int) -> None:
        self._image = library.image(item.class_index, split, item.instance)
        self._extent = item.place.extent * size
        self._scale = math.nan
        self._scaled: np.ndarray

    def scaled(self, scale: float) -> np.ndarray:
        if scale != self._scale:
            self._scale, self._scaled = scale, scale_cut_out(self._image, self._extent * scale)
        return self._scaled


def position(item: SeenObject, time: float) -> tuple[float, float, float]:
    """Return an object's centre (in units of the frame size) and scale factor at a time in seconds."""
    pose = item.motion.at(time)
    return item.place.x + pose.dx, item.place.y + pose.dy, pose.scale


def render_audio(seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> np.ndarray:
    """Return the audio of a scene, float32 (samples,) within [-1, 1]: its sounds and faint background noise."""
    rng = generator(seed, scene.split, scene.number, "audio")
    mixture = rng.standard_normal(round(settings.seconds * settings.sample_rate), dtype=np.float32)
    mixture *= 0.1 * 10 ** (rng.uniform(*_NOISE_DB) / 20)
    for item in scene.sounds:
        first, last = (round(segment * settings.segment_seconds * settings.sample_rate) for segment in item.heard)
        seconds = (last - first) / settings.sample_rate
        sound = library.sound(item.class_index, scene.split, item.instance, settings.sample_rate, seconds)
        mixture[first:last] += 10 ** (item.gain_db / 20) * _faded(sound, settings.sample_rate)
    return mixture / max(1.0, float(np.abs(mixture).max()))


def _faded(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    # Without fades, a sound would start and end with a click, which is audible in the neighbouring segment.
    length = min(round(_FADE_SECONDS * sample_rate), len(sound) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    faded = sound.copy()
    faded[:length] *= ramp
    faded[len(sound) - length :] *= ramp[::-1]
    return faded
