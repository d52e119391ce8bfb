"""Writer of composed clips in the official layout of AVSBench's single-source subset (S4).

Several objects are seen; exactly one of them sounds, throughout the clip. As in the data set, only the first frame of a
training clip has a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.layouts.avsbench import OPTIONS, clip_id, make_scene, sample_classes, write_media
from lavish.data.synthetic.layouts.lists import write_lines
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import Interval, Scene

__all__ = ["OPTIONS", "check", "clip_id", "is_finished", "sample_scene", "write_clip", "write_lists"]

_ROOT = Path("Single-source")


def check(classes: Sequence[str], settings: RenderSettings) -> None:
    """Raise LavishError for class names that are not unique as folder names."""
    plain_names(classes)


def sample_scene(
    seed: int, library: AssetLibrary, split: str, number: int, settings: RenderSettings, *, objects: int
) -> Scene:
    """Sample the scene of one clip; the sounding classes are balanced within a split."""
    rng, classes = sample_classes(seed, library, split, number, objects)
    heard = {classes[0]: Interval(0, settings.segments)}
    return make_scene(rng, library, split, number, settings.segments, classes, heard)


def is_finished(out: Path, seed: int, scene: Scene) -> bool:
    """Return whether the clip has been written, in the folder of any category; its audio is written last."""
    return any((out / _ROOT / "s4_data" / "audio_wav" / scene.split).glob(f"*/{clip_id(seed, scene)}.wav"))


def write_clip(out: Path, seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render and write the media of one clip."""
    name = clip_id(seed, scene)
    [sound] = scene.sounds
    category = plain_names(library.classes)[sound.class_index]
    data = out / _ROOT / "s4_data"
    numbered = [f"{name}_{segment + 1}.png" for segment in range(settings.segments)]
    annotated = numbered[:1] if scene.split == "train" else numbered
    write_media(
        seed,
        scene,
        library,
        settings,
        [data / "visual_frames" / scene.split / category / name / file for file in numbered],
        [data / "gt_masks" / scene.split / category / name / file for file in annotated],
        data / "audio_wav" / scene.split / category / f"{name}.wav",
    )


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[Scene]], classes: Sequence[str], settings: RenderSettings
) -> None:
    """Write the table of clips; `start`, the second of the original video at which the clip begins, is always 0."""
    names = plain_names(classes)
    rows = [
        f"{clip_id(seed, scene)},0,{names[scene.sounds[0].class_index]},{split}"
        for split, listed in scenes.items()
        for scene in listed
    ]
    write_lines(out / _ROOT / "s4_meta_data.csv", ["name,start,category,split", *rows])
