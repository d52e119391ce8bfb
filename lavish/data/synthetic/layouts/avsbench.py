"""What the layouts of AVSBench have in common: objects seen throughout, extracted pictures and sound, exact masks.

Which of the objects sound, and when, is what the two differ in. All objects of a clip are of different classes, so that
hearing tells which one is meant. Places, sizes, movements and the order of drawing come from the same draws for
sounding and silent objects: pictures alone do not tell them apart.
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
from lavish.data.synthetic.rendering import Medium, render_labelled, render_sound
from lavish.data.synthetic.scene_graph import (
    HeardSound,
    Interval,
    Scene,
    SeenObject,
    balanced_class,
    draw_gain,
    draw_sway,
    generator,
)
from lavish.data.synthetic.scenes import draw_places
from lavish.errors import LavishError
from lavish.io.atomic import write_bytes

OPTIONS = ("objects",)


def clip_id(seed: int, scene: Scene) -> str:
    """Return the clip's name."""
    return video_id(seed, scene.split, scene.number)


def draw_classes(
    seed: int, library: AssetLibrary, split: str, number: int, objects: int
) -> tuple[np.random.Generator, list[int]]:
    """Draw the classes of a clip's objects, no two of them the same; the first one is balanced within a split.

    Returns:
        The generator that the rest of the scene is to be drawn from, and the classes' indices.

    Raises:
        LavishError: there are fewer classes than objects.
    """
    count = len(library.classes)
    if objects > count:
        raise LavishError(
            f"compose.objects is {objects}, but there are {count} classes, and no two objects of a clip share one: "
            "lower it, or give more classes"
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
    """Return a scene in which an object of each of `classes` is seen, and those in `heard` sound in their intervals."""
    seen = [
        SeenObject(
            index,
            int(rng.integers(library.pictures(index, split))),
            Interval(0, segments),
            place,
            draw_sway(rng),
            index in heard,
        )
        for index, place in zip(classes, draw_places(rng, len(classes)), strict=True)
    ]
    sounds = [
        HeardSound(index, int(rng.integers(library.sounds(index, split))), interval, draw_gain(rng), visible=True)
        for index, interval in heard.items()
    ]
    # Neither may lie on top more often, nor come first.
    return Scene(
        split,
        number,
        tuple(seen[place] for place in rng.permutation(len(seen))),
        tuple(sounds[place] for place in rng.permutation(len(sounds))),
    )


def write_media(
    seed: int,
    scene: Scene,
    library: AssetLibrary,
    medium: Medium,
    pictures: Sequence[Path],
    masks: Sequence[Path],
    sound: Path,
) -> None:
    """Write a picture of the middle of every segment, the masks of the first segments, and the sound, which comes last.

    Args:
        seed: of the composition.
        scene: what to write.
        library: where it comes from.
        medium: how it is rendered.
        pictures: a file per segment, PNG.
        masks: a file for each of the first `len(masks)` segments, PNG of 0 and 255: where an object is seen that sounds in
            this segment, opaque by more than half and covered by none.
        sound: a WAV file, mono, 16 bit.
    """
    times = [(segment + 0.5) * medium.segment_seconds for segment in range(medium.segments)]
    frames, seen = render_labelled(seed, scene, library, medium, times)
    for folder in {path.parent for path in (*pictures, *masks, sound)}:
        folder.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(pictures, frames, strict=True):
        _write_png(path, frame)
    for segment, path in enumerate(masks):
        heard = {item.class_index for item in scene.sounds if item.heard.start <= segment < item.heard.end}
        sounding = [item.class_index in heard for item in scene.objects]
        _write_png(path, np.where(seen[sounding, segment].any(axis=0), np.uint8(255), np.uint8(0)))
    _write_wav(sound, render_sound(seed, scene, library, medium), medium.sample_rate)


def write_table(path: Path, header: str, rows: Sequence[str]) -> None:
    """Write a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, "".join(f"{row}\n" for row in (header, *rows)).encode())


def _write_png(path: Path, pixels: np.ndarray) -> None:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG", compress_level=1)
    write_bytes(path, memory.getvalue())


def _write_wav(path: Path, sound: np.ndarray, sample_rate: int) -> None:
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.rint(32767 * sound).astype("<i2").tobytes())
    write_bytes(path, memory.getvalue())
