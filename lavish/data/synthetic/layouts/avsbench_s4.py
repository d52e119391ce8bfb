"""Writes composed clips in the official layout of AVSBench's single-source subset (S4).

Several objects are seen, exactly one of them sounds, throughout. As in the data set, only the first picture of a
training clip has a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.layouts.avsbench import OPTIONS, clip_id, draw_classes, make_scene, write_media, write_table
from lavish.data.synthetic.rendering import Medium
from lavish.data.synthetic.scene_graph import Interval, Scene

__all__ = ["OPTIONS", "check", "clip_id", "draw_scene", "is_finished", "write_clip", "write_lists"]

_ROOT = Path("Single-source")


def check(classes: Sequence[str], medium: Medium) -> None:
    """Raise LavishError for classes that cannot be told apart as names of folders."""
    plain_names(classes)


def draw_scene(seed: int, library: AssetLibrary, split: str, number: int, medium: Medium, *, objects: int) -> Scene:
    """Draw the scene of one clip; the classes that sound are balanced within a split."""
    rng, classes = draw_classes(seed, library, split, number, objects)
    heard = {classes[0]: Interval(0, medium.segments)}
    return make_scene(rng, library, split, number, medium.segments, classes, heard)


def is_finished(out: Path, seed: int, scene: Scene) -> bool:
    """Tell whether the clip has been written: its sound comes last, wherever its category's folder is."""
    return any((out / _ROOT / "s4_data" / "audio_wav" / scene.split).glob(f"*/{clip_id(seed, scene)}.wav"))


def write_clip(out: Path, seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> None:
    """Render and write the media of one clip."""
    name = clip_id(seed, scene)
    [sound] = scene.sounds
    category = plain_names(library.classes)[sound.class_index]
    data = out / _ROOT / "s4_data"
    numbered = [f"{name}_{segment + 1}.png" for segment in range(medium.segments)]
    annotated = numbered[:1] if scene.split == "train" else numbered
    write_media(
        seed,
        scene,
        library,
        medium,
        [data / "visual_frames" / scene.split / category / name / file for file in numbered],
        [data / "gt_masks" / scene.split / category / name / file for file in annotated],
        data / "audio_wav" / scene.split / category / f"{name}.wav",
    )


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[Scene]], classes: Sequence[str], medium: Medium
) -> None:
    """Write the table of clips; `start`, the second at which the clip was cut from its video, is always 0 here."""
    names = plain_names(classes)
    rows = [
        f"{clip_id(seed, scene)},0,{names[scene.sounds[0].class_index]},{split}"
        for split, listed in scenes.items()
        for scene in listed
    ]
    write_table(out / _ROOT / "s4_meta_data.csv", "name,start,category,split", rows)
