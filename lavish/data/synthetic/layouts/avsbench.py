"""Shared by the writers of both AVSBench layouts: objects seen throughout, extracted frames and audio, exact masks.

The two subsets differ in which objects sound, and when. All objects of a clip are of different classes, so that the
sound identifies the object. Places, sizes, motions and drawing order are sampled in the same way for sounding and
silent objects, so that frames alone do not distinguish them.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import video_id
from lavish.data.synthetic.rendering import RenderSettings, render_audio, render_labelled
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
from lavish.errors import LavishError
from lavish.io.atomic import write_bytes

OPTIONS = ("objects",)


def clip_id(seed: int, scene: Scene) -> str:
    """Return the clip's name."""
    return video_id(seed, scene.split, scene.number)


def sample_classes(
    seed: int, library: AssetLibrary, split: str, number: int, objects: int
) -> tuple[np.random.Generator, list[int]]:
    """Sample different classes for the objects of a clip; the first one is balanced within a split.

    Returns:
        The random generator for the rest of the scene, and the class indices.

    Raises:
        LavishError: there are fewer classes than objects.
    """
    count = len(library.classes)
    if objects > count:
        raise LavishError(
            f"compose.objects is {objects}, but there are only {count} classes, and the objects of a clip are of "
            "different classes: decrease it, or add classes"
        )
    rng = generator(seed, split, number, "scene")
    first = balanced_class(seed, split, number, count)
    others = [index for index in rng.permutation(count).tolist() if index != first]
    return rng, [first, *others[: objects - 1]]


def make_scene(
    rng: np.random.Generator,
    library: AssetLibrary,
    split: str,
    number: int,
    segments: int,
    classes: Sequence[int],
    heard: Mapping[int, Interval],
) -> Scene:
    """Sample a scene with one visible object of each of `classes`; those in `heard` sound in their intervals."""
    objects = [
        sample_object(rng, library, split, index, Interval(0, segments), place, sounding=index in heard)
        for index, place in zip(classes, sample_places(rng, len(classes)), strict=True)
    ]
    sounds = [sample_sound(rng, library, split, index, interval, visible=True) for index, interval in heard.items()]
    # Shuffled, so that sounding objects are not on top more often than silent ones.
    return Scene(split, number, shuffled(rng, objects), shuffled(rng, sounds))


def write_media(
    seed: int,
    scene: Scene,
    library: AssetLibrary,
    settings: RenderSettings,
    frames: Sequence[Path],
    masks: Sequence[Path],
    audio: Path,
) -> None:
    """Write the frames at the centres of the segments, the masks of the first segments and, last, the audio.

    Args:
        seed: of the composition.
        scene: the scene to render.
        library: images and sounds.
        settings: how it is rendered.
        frames: a PNG file per segment.
        masks: a PNG file for each of the first `len(masks)` segments, 255 for pixels of an object that sounds in this
            segment (alpha above 0.5, not covered by another object), 0 for the others.
        audio: a WAV file, mono, 16 bit.
    """
    times = [(segment + 0.5) * settings.segment_seconds for segment in range(settings.segments)]
    pixels, object_masks = render_labelled(seed, scene, library, settings, times)
    for path, frame in zip(frames, pixels, strict=True):
        _write_png(path, frame)
    for segment, path in enumerate(masks):
        heard = {item.class_index for item in scene.sounds if item.heard.start <= segment < item.heard.end}
        sounding = [item.class_index in heard for item in scene.objects]
        _write_png(path, np.where(object_masks[sounding, segment].any(axis=0), np.uint8(255), np.uint8(0)))
    _write_wav(audio, render_audio(seed, scene, library, settings), settings.sample_rate)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG", compress_level=1)
    write_bytes(path, memory.getvalue())


def _write_wav(path: Path, waveform: np.ndarray, sample_rate: int) -> None:
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(32767 * waveform).astype("<i2").tobytes())
    write_bytes(path, memory.getvalue())
