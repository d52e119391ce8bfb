"""Scenes as video files with sound, for the layouts that hold videos."""

from __future__ import annotations

from pathlib import Path

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.rendering import Medium, render_pictures, render_sound
from lavish.data.synthetic.scene_graph import Scene
from lavish.data.synthetic.video_writing import SAMPLE_RATES, write_video
from lavish.errors import LavishError


def check_video(medium: Medium) -> None:
    """Raise LavishError for what a video cannot hold."""
    if medium.picture_size % 2:
        raise LavishError(f"compose.picture_size is {medium.picture_size}: H.264 video needs an even one")
    if medium.sample_rate not in SAMPLE_RATES:
        rates = ", ".join(map(str, SAMPLE_RATES))
        raise LavishError(f"compose.sample_rate is {medium.sample_rate}, which AAC sound cannot have: use {rates}")
    if medium.segment_seconds * medium.frame_rate < 1:
        raise LavishError(
            f"segments of {medium.segment_seconds:g} s would hold no picture at {medium.frame_rate} frames a second: raise "
            "compose.frame_rate"
        )


def write_scene_video(path: Path, seed: int, scene: Scene, library: AssetLibrary, medium: Medium) -> None:
    """Render a scene and write it as a video, with the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(
        path,
        render_pictures(seed, scene, library, medium),
        medium.frame_rate,
        render_sound(seed, scene, library, medium),
        medium.sample_rate,
    )
