"""Writes composed clips as a table of labelled videos; :mod:`lavish.data.formats.actions` describes and reads it.

:mod:`lavish.data.synthetic.action_scenes` says what happens in them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic import action_scenes
from lavish.data.synthetic.action_scenes import MIN_SEGMENTS, ActionScene
from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import video_id
from lavish.data.synthetic.rendering import Medium
from lavish.data.synthetic.scene_videos import check_video, write_scene_video
from lavish.errors import LavishError
from lavish.io.atomic import write_bytes

OPTIONS = ("frame_rate", "silent_object", "unseen_sound")


def draw_scene(
    seed: int,
    library: AssetLibrary,
    split: str,
    number: int,
    medium: Medium,
    *,
    silent_object: float,
    unseen_sound: float,
) -> ActionScene:
    """Draw the scene of one clip."""
    return action_scenes.draw_scene(
        seed,
        library,
        split,
        number,
        segments=medium.segments,
        segment_seconds=medium.segment_seconds,
        silent_object=silent_object,
        unseen_sound=unseen_sound,
    )


def clip_id(seed: int, scene: ActionScene) -> str:
    """Return the path of the clip's video, as the table has it."""
    return f"videos/{scene.action}/{video_id(seed, scene.split, scene.number)}.mp4"


def check(classes: Sequence[str], medium: Medium) -> None:
    """Raise LavishError for what this layout cannot hold."""
    action_scenes.actions(classes)  # whose names must differ
    if medium.segments < MIN_SEGMENTS:
        raise LavishError(
            f"segments is {medium.segments}: too few pictures to see a motion in, give at least {MIN_SEGMENTS}"
        )
    check_video(medium)


def is_finished(out: Path, seed: int, scene: ActionScene) -> bool:
    """Tell whether the clip has been written."""
    return (out / clip_id(seed, scene)).exists()


def write_clip(out: Path, seed: int, scene: ActionScene, library: AssetLibrary, medium: Medium) -> None:
    """Render and write the video of one clip."""
    write_scene_video(out / clip_id(seed, scene), seed, scene, library, medium)


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[ActionScene]], classes: Sequence[str], medium: Medium
) -> None:
    """Write the table of all clips, and the names of the actions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    writer.writerows((clip_id(seed, scene), scene.action, scene.split) for part in scenes.values() for scene in part)
    write_bytes(out / "clips.csv", text.getvalue().encode())
    names = "".join(f"{name}\n" for name in action_scenes.actions(classes))
    write_bytes(out / "classes.txt", names.encode())
