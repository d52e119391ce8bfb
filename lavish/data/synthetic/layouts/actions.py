"""Writer of composed clips as a table of labelled videos, which :mod:`lavish.data.formats.actions` reads.

The scenes are those of :mod:`lavish.data.synthetic.action_scenes`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lavish.data.synthetic import action_scenes
from lavish.data.synthetic.action_scenes import MIN_SEGMENTS, ActionScene, sample_scene
from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import video_id
from lavish.data.synthetic.layouts.lists import write_lines
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_videos import check_video, write_scene_video
from lavish.errors import LavishError
from lavish.io.atomic import write_text

__all__ = ["OPTIONS", "check", "clip_id", "is_finished", "sample_scene", "write_clip", "write_lists"]

OPTIONS = ("frame_rate", "silent_object", "unseen_sound")


def clip_id(seed: int, scene: ActionScene) -> str:
    """Return the path of the clip's video, as listed in the table."""
    return f"videos/{scene.action}/{video_id(seed, scene.split, scene.number)}.mp4"


def check(classes: Sequence[str], settings: RenderSettings) -> None:
    """Raise LavishError for classes or settings that this layout does not support."""
    action_scenes.action_names(classes)  # raises if two names are equal
    if settings.segments < MIN_SEGMENTS:
        raise LavishError(
            f"segments is {settings.segments}, too few frames to show a motion: give at least {MIN_SEGMENTS}"
        )
    check_video(settings)


def is_finished(out: Path, seed: int, scene: ActionScene) -> bool:
    """Return whether the clip has been written."""
    return (out / clip_id(seed, scene)).exists()


def write_clip(out: Path, seed: int, scene: ActionScene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render and write the video of one clip."""
    write_scene_video(out / clip_id(seed, scene), seed, scene, library, settings)


def write_lists(
    out: Path, seed: int, scenes: Mapping[str, Sequence[ActionScene]], classes: Sequence[str], settings: RenderSettings
) -> None:
    """Write the table of all clips and the list of action names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "split"))
    writer.writerows((clip_id(seed, scene), scene.action, scene.split) for part in scenes.values() for scene in part)
    write_text(out / "clips.csv", text.getvalue())
    write_lines(out / "classes.txt", action_scenes.action_names(classes))
