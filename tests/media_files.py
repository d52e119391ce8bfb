"""Writes small media files that tests decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SECONDS = 3
CLOCK = 12800  # ticks per second of video timestamps


def grey_levels(index: int, width: int = 48, height: int = 48) -> np.ndarray:
    """Return an image whose grey level encodes its number: 15 * index + 20."""
    return np.full((height, width, 3), 15 * index + 20, dtype=np.uint8)


def tone(seconds: float = SECONDS, rate: int = 16000, frequency: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    """Return a sine, float64 (samples,)."""
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write_media(
    path: Path,
    *,
    times: Sequence[float] | None = tuple(np.arange(12) / 4),
    image: Callable[[int], np.ndarray] = grey_levels,
    video_codec: str = "libx264",
    video_options: dict[str, str] | None = None,
    rotation: float | None = None,
    audio: np.ndarray | None = None,
    rate: int = 16000,
    layout: str = "mono",
    audio_codec: str = "aac",
    audio_format: str = "fltp",
    audio_start: float = 0.0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a file with a frame at each of `times` and/or `audio` ((samples,) or (channels, samples))."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        video = audio_stream = None
        if times is not None:
            video = container.add_stream(video_codec, rate=4, options=video_options or {})
            video.height, video.width = image(0).shape[:2]
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
            video.codec_context.time_base = Fraction(1, CLOCK)
            if rotation is not None:
                video.set_display_rotation(rotation)
        if audio is not None:
            audio_stream = container.add_stream(audio_codec, rate=rate, layout=layout)
            audio_stream.codec_context.format = audio_format
        if video is not None:
            for index, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(image(index), format="rgb24")
                frame.pts, frame.time_base = round(time * CLOCK), Fraction(1, CLOCK)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio_stream is not None:
            _write_audio(container, audio_stream, np.atleast_2d(audio), rate, layout, audio_format, audio_start)
    return path


def _write_audio(container, stream, samples, rate, layout, audio_format, start) -> None:
    for first in range(0, samples.shape[1], 1024):
        piece = np.ascontiguousarray(samples[:, first : first + 1024].astype(np.float32))
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts, frame.time_base = first + round(start * rate), Fraction(1, rate)
        converter = av.AudioResampler(format=audio_format, layout=layout, rate=rate)
        for converted in [frame] if audio_format == "fltp" else converter.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))
