"""Writer of composed clips in the official layout of AVSBench's multi-source subset (MS3).

Several objects are seen. Some of them sound, each in its own interval, with at most two at the same time and sometimes
none. A mask covers the objects that sound in its segment and may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.layouts.avsbench import OPTIONS, clip_id, make_scene, sample_classes, write_media
from lavish.data.synthetic.layouts.lists import write_lines
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import Interval, Scene, shuffled

__all__ = ["OPTIONS", "check", "clip_id", "is_finished", "sample_scene", "write_clip", "write_lists"]

_ROOT = Path("Multi-sources")
_SIMULTANEOUS = 2  # maximum number of objects that sound at the same time
_PAUSES = 2  # added to the objects that take turns


def check(classes: Sequence[str], settings: RenderSettings) -> None:
    """Accept all classes and settings: class names are not part of any file."""


def sample_scene(
    seed: int, library: AssetLibrary, split: str, number: int, settings: RenderSettings, *, objects: int
) -> Scene:
    """Sample the scene of one clip; one of its classes is balanced within a split."""
    rng, classes = sample_classes(seed, library, split, number, objects)
    heard: dict[int, Interval] = {}
    while not heard:
        heard = _sample_turns(rng, classes, settings.segments)
    return make_scene(rng, library, split, number, settings.segments, classes, heard)


def _sample_turns(rng: np.random.Generator, classes: Sequence[int], segments: int) -> dict[int, Interval]:
    """Sample the intervals of the classes that are heard: objects and pauses take turns in each simultaneous voice."""
    turns = [*classes, *[None] * _PAUSES]
    waiting = list(shuffled(rng, turns))
    heard: dict[int, Interval] = {}
    for _ in range(_SIMULTANEOUS):
        # A voice has one turn or two.
        change = int(rng.integers(segments))
        for turn in [Interval(0, change), Interval(change, segments)] if change else [Interval(0, segments)]:
            index = waiting.pop() if waiting else None
            if index is not None:
                heard[index] = turn
    return heard


def is_finished(out: Path, seed: int, scene: Scene) -> bool:
    """Return whether the clip has been written; its audio is written last."""
    return _audio_path(out, seed, scene).exists()


def write_clip(out: Path, seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render and write the media of one clip."""
    name = clip_id(seed, scene)
    data = out / _ROOT / "ms3_data"
    # As published: the frames of all splits are in one folder, and their names differ from those of the masks.
    write_media(
        seed,
        scene,
        library,
        settings,
        [data / "visual_frames" / name / f"{name}.mp4_{segment + 1}.png" for segment in range(settings.segments)],
        [data / "gt_masks" / scene.split / name / f"{name}_{segment + 1}.png" for segment in range(settings.segments)],
        _audio_path(out, seed, scene),
    )


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[Scene]], classes: Sequence[str], settings: RenderSettings
) -> None:
    """Write the table of clips."""
    rows = [f"{clip_id(seed, scene)},{split}" for split, listed in scenes.items() for scene in listed]
    write_lines(out / _ROOT / "ms3_meta_data.csv", ["video_id,split", *rows])


def _audio_path(out: Path, seed: int, scene: Scene) -> Path:
    return out / _ROOT / "ms3_data" / "audio_wav" / scene.split / f"{clip_id(seed, scene)}.wav"
