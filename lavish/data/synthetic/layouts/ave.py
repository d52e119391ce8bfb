"""Writer of composed clips in the official layout of the AVE data set, which :mod:`lavish.data.formats.ave` reads.

The scenes are those of :mod:`lavish.data.synthetic.event_scenes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import video_id
from lavish.data.synthetic.event_scenes import EventScene, sample_scene
from lavish.data.synthetic.layouts.lists import write_lines
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_videos import check_video, write_scene_video
from lavish.errors import LavishError

__all__ = ["OPTIONS", "check", "clip_id", "is_finished", "sample_scene", "write_clip", "write_lists"]

OPTIONS = ("frame_rate", "silent_object", "unseen_sound")
_HEADER = "Category&VideoID&Quality&StartTime&EndTime"
_LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


def clip_id(seed: int, scene: EventScene) -> str:
    """Return the clip's id, 11 characters like a YouTube id."""
    return video_id(seed, scene.split, scene.number)


def check(classes: Sequence[str], settings: RenderSettings) -> None:
    """Raise LavishError for classes or settings that this layout does not support."""
    for name in classes:
        if "&" in name or name != name.strip() or not name.isprintable():
            raise LavishError(f"class '{name}' cannot be written to the lists of the AVE layout: rename its folder")
    if len(classes) < 3:
        raise LavishError(
            f"compose.assets: {len(classes)} classes, but the event, a silent object and an unseen sound need one "
            "each: give at least 3"
        )
    check_video(settings)


def is_finished(out: Path, seed: int, scene: EventScene) -> bool:
    """Return whether the clip has been written."""
    return _path(out, seed, scene).exists()


def write_clip(out: Path, seed: int, scene: EventScene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render and write the media of one clip."""
    write_scene_video(_path(out, seed, scene), seed, scene, library, settings)


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[EventScene]], classes: Sequence[str], settings: RenderSettings
) -> None:
    """Write the text files: the lists of the splits, the annotations of all clips and the categories."""
    lines = {
        split: [
            f"{classes[scene.class_index]}&{clip_id(seed, scene)}&good"
            f"&{scene.event.start * settings.segment_seconds:g}&{scene.event.end * settings.segment_seconds:g}"
            for scene in scenes[split]
        ]
        for split in _LISTS
    }
    for split, name in _LISTS.items():
        write_lines(out / name, lines[split])
    write_lines(out / "categories.txt", classes)
    write_lines(out / "Annotations.txt", [_HEADER, *(line for split in _LISTS for line in lines[split])])


def _path(out: Path, seed: int, scene: EventScene) -> Path:
    return out / "AVE" / f"{clip_id(seed, scene)}.mp4"
