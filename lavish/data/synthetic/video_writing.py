"""Writing small videos with audio as H.264 and AAC in MP4, the format of real data sets."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from lavish.io.atomic import write_bytes

# Sampling frequencies of the AAC standard (ISO/IEC 14496-3, table 1.18) from 8 kHz on.
SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_BITS_PER_SAMPLE = 4
# High quality, so that textures of a few pixels survive; the clips are small anyway.
_VIDEO_OPTIONS = {"preset": "superfast", "crf": "16"}
_AUDIO_OPTIONS = {"aac_coder": "fast"}


def write_video(path: Path, frames: np.ndarray, frame_rate: int, waveform: np.ndarray, sample_rate: int) -> None:
    """Write a video file atomically; equal arguments give equal bytes.

    Args:
        path: the file.
        frames: uint8 (count, H, W, 3) RGB, H and W even.
        frame_rate: frames per second.
        waveform: float32 (samples,) mono within [-1, 1].
        sample_rate: samples per second, one of `SAMPLE_RATES`.
    """
    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=frame_rate, options=_VIDEO_OPTIONS)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=sample_rate, layout="mono", options=_AUDIO_OPTIONS)
        audio.bit_rate = _BITS_PER_SAMPLE * sample_rate
        for stream in (video, audio):
            stream.codec_context.thread_count = 1  # parallelism is over clips, and threads would change the bytes
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, frame_rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[None], np.float32), "fltp", "mono")
        samples.sample_rate, samples.pts, samples.time_base = sample_rate, 0, Fraction(1, sample_rate)
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
    write_bytes(path, memory.getvalue())
