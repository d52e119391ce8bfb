"""Writes composed clips in the official layout of AVSBench's multi-source subset (MS3).

Several objects are seen; some of them sound, each in an interval of its own, at most two at a time and at times none.
A mask says which of them sound in its segment, and may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.layouts.avsbench import OPTIONS, clip_id, draw_classes, make_scene, write_media, write_table
from lavish.data.synthetic.rendering import Medium
from lavish.data.synthetic.scene_graph import Interval, Scene

__all__ = ["OPTIONS", "check", "clip_id", "draw_scene", "is_finished", "write_clip", "write_lists"]

_ROOT = Path("Multi-sources")
_TOGETHER = 2  # objects that may sound at the same time
_PAUSES = 2  # among the objects that take turns


def check(classes: Sequence[str], medium: Medium) -> None:
    """This layout holds any clip: categories appear in none of its names."""


def draw_scene(seed: int, library: AssetLibrary, split: str, number: int, medium: Medium, *, objects: int) -> Scene:
    """Draw the scene of one clip; one class in each is balanced within a split."""
    rng, classes = draw_classes(seed, library, split, number, objects)
    heard: dict[int, Interval] = {}
    while not heard:
        heard = _draw_turns(rng, classes, medium.segments)
    return make_scene(rng, library, split, number, medium.segments, classes, heard)


def _draw_turns(rng: np.random.Generator, classes: Sequence[int], segments: int) -> dict[int, Interval]:
    """Draw when each class is heard, if at all: objects and pauses take turns in as many voices as sound together."""
    turns = [*classes, *[None] * _PAUSES]
    waiting = [turns[place] for place in rng.permutation(len(turns))]
    heard: dict[int, Interval] = {}
    for _ in range(_TOGETHER):
        # One turn, or two.
        change = int(rng.integers(segments))
        for turn in [Interval(0, change), Interval(change, segments)] if change else [Interval(0, segments)]:
            index = waiting.pop() if waiting else None
            if index is not None:
                heard[index] = turn
    return heard


def is_finished(out: Path, seed: int, scene: Scene) -> bool:
    """Tell whether the clip has been written: its sound comes last."""
    return _sound(out, seed, scene).exists()


def write_clip(out: Path, seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> None:
    """Render and write the media of one clip."""
    name = clip_id(seed, scene)
    data = out / _ROOT / "ms3_data"
    # Pictures of all splits lie together here, and their names differ from those of their masks.
    write_media(
        seed,
        scene,
        library,
        medium,
        [data / "visual_frames" / name / f"{name}.mp4_{segment + 1}.png" for segment in range(medium.segments)],
        [data / "gt_masks" / scene.split / name / f"{name}_{segment + 1}.png" for segment in range(medium.segments)],
        _sound(out, seed, scene),
    )


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[Scene]], classes: Sequence[str], medium: Medium
) -> None:
    """Write the table of clips."""
    rows = [f"{clip_id(seed, scene)},{split}" for split, listed in scenes.items() for scene in listed]
    write_table(out / _ROOT / "ms3_meta_data.csv", "video_id,split", rows)


def _sound(out: Path, seed: int, scene: Scene) -> Path:
    return out / _ROOT / "ms3_data" / "audio_wav" / scene.split / f"{clip_id(seed, scene)}.wav"
