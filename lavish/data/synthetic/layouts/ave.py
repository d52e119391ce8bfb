"""Writes composed clips in the official layout of the AVE data set; :mod:`lavish.data.formats.ave` describes and reads it.

:mod:`lavish.data.synthetic.event_scenes` says what happens in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic import event_scenes
from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import video_id
from lavish.data.synthetic.event_scenes import EventScene
from lavish.data.synthetic.rendering import Medium
from lavish.data.synthetic.scene_videos import check_video, write_scene_video
from lavish.errors import LavishError
from lavish.io.atomic import write_bytes

OPTIONS = ("frame_rate", "silent_object", "unseen_sound")
_HEADER = "Category&VideoID&Quality&StartTime&EndTime"
_LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}


def draw_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    medium: Medium,
    *,
    silent_object: float,
    unseen_sound: float,
) -> EventScene:
    """Draw the scene of one clip."""
    return event_scenes.draw_scene(
        seed, library, split, number, segments=medium.segments, silent_object=silent_object, unseen_sound=unseen_sound
    )


def clip_id(seed: int, scene: EventScene) -> str:
    """Return the clip's id: 11 characters like a YouTube id, of which some begin with '-' as theirs do."""
    return video_id(seed, scene.split, scene.number)


def check(classes: Sequence[str], medium: Medium) -> None:
    """Raise LavishError for what this layout cannot hold."""
    for name in classes:
        if "&" in name or name != name.strip() or not name.isprintable():
            raise LavishError(f"class '{name}' cannot be written to the lists of the AVE layout: rename its folder")
    if len(classes) < 3:
        raise LavishError(
            f"compose.assets: {len(classes)} classes, but an event, an object that is silent and a sound that is not "
            "seen need one each: give at least 3"
        )
    check_video(medium)


def is_finished(out: Path, seed: int, scene: EventScene) -> bool:
    """Tell whether the clip has been written."""
    return _path(out, seed, scene).exists()


def write_clip(out: Path, seed: int, scene: EventScene, library: AssetLibrary, medium: Medium) -> None:
    """Render and write the media of one clip."""
    write_scene_video(_path(out, seed, scene), seed, scene, library, medium)


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[EventScene]], classes: Sequence[str], medium: Medium
) -> None:
    """Write the text files: the lists of the splits, the annotations of all clips and the categories."""
    lines = {
        split: [
            f"{classes[scene.class_index]}&{clip_id(seed, scene)}&good"
            f"&{scene.event.start * medium.segment_seconds:g}&{scene.event.end * medium.segment_seconds:g}"
            for scene in scenes[split]
        ]
        for split in _LISTS
    }
    for split, name in _LISTS.items():
        _write_lines(out / name, lines[split])
    _write_lines(out / "categories.txt", classes)
    _write_lines(out / "Annotations.txt", [_HEADER, *(line for split in _LISTS for line in lines[split])])


def _path(out: Path, seed: int, scene: EventScene) -> Path:
    return out / "AVE" / f"{clip_id(seed, scene)}.mp4"


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
