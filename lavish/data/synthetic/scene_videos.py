"""Writing scenes as video files with audio, for the layouts that contain videos."""

from __future__ import annotations

from pathlib import Path

from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.rendering import RenderSettings, render_audio, render_frames
from lavish.data.synthetic.scene_graph import Scene
from lavish.data.synthetic.video_writing import SAMPLE_RATES, write_video
from lavish.errors import LavishError


def check_video(settings: RenderSettings) -> None:
    """Raise LavishError for settings that a video file does not support."""
    if settings.picture_size % 2:
        raise LavishError(f"compose.picture_size is {settings.picture_size}: H.264 video needs an even number")
    if settings.sample_rate not in SAMPLE_RATES:
        rates = ", ".join(map(str, SAMPLE_RATES))
        raise LavishError(
            f"compose.sample_rate is {settings.sample_rate}, which AAC audio does not support: use {rates}"
        )
    if settings.segment_seconds * settings.frame_rate < 1:
        raise LavishError(
            f"segments of {settings.segment_seconds:g} s have no frame at {settings.frame_rate} frames per second: "
            "increase compose.frame_rate"
        )


def write_scene_video(path: Path, seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render a scene and write it as a video file."""
    write_video(
        path,
        render_frames(seed, scene, library, settings),
        settings.frame_rate,
        render_audio(seed, scene, library, settings),
        settings.sample_rate,
    )
