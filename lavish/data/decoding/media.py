"""Decoding the frames and the audio of a clip: PyAV for media files, Pillow for extracted images.

The frame of a segment is the one on screen at its centre, rotated by the display matrix and resized (bicubic) to a
square without cropping, as in published practice. (LAVISH takes the first frame, the last frame and eight between them;
with the centres, every frame lies within the segment of its label.)

Treatment of faulty media:

* missing or undecodable file, no video stream, no audio stream: :class:`MediaError`, the clip is excluded;
* a stream that covers fewer than half of the segment centres: :class:`MediaError`, the clip is excluded;
* a stream that does not cover all of the centres: noted; the nearest frame is repeated, audio is zero;
* timestamps that begin again or jump, as in joined recordings: noted; the jump is closed, as in a player. If sound and
  pictures jump in different ways: :class:`MediaError`, the clip is excluded;
* packets without timestamps: noted; they follow the ones before them, frames at the stream's average rate;
* damaged packets or frames: noted; they are skipped and the frame before them is repeated;
* silent audio, with a peak below -80 dB of full scale: noted but kept, because published results count such clips;
* a stream that ends less than half a segment early counts as complete, because most real clips do.

Files are untrusted: nothing in them is evaluated, unpickled or executed, only local files are opened, and decoding
stops at the end of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lavish.data.decoding.audio import FULL_SCALE, decode_audio
from lavish.data.decoding.container import Container, MediaError
from lavish.data.decoding.images import decode_video_frames, read_folder_frames, read_segment_frames
from lavish.data.decoding.masks import decode_masks
from lavish.data.formats.base import ClipSource, missing_media
from lavish.io.paths import kind_of

__all__ = ["MediaError", "decode_clip", "decode_source"]

_MIN_COVERED = 0.5  # of the segments' centres
_SILENT_PEAK = 1e-4  # of full scale


def decode_source(
    source: ClipSource, *, segments: int, duration: float, frame_size: int, sample_rate: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """Decode one clip with its masks.

    Returns:
        Frames, waveform as :func:`decode_clip` returns them; masks as :func:`~lavish.data.decoding.masks.decode_masks`
        does, or None for a format without masks; and the notes of both.

    Raises:
        MediaError: the clip cannot be used.
    """
    frames, waveform, notes = decode_clip(
        source, segments=segments, duration=duration, frame_size=frame_size, sample_rate=sample_rate
    )
    masks, mask_notes = decode_masks(source.masks, frame_size) if source.masks else (None, [])
    return frames, waveform, masks, notes + mask_notes


def decode_clip(
    source: ClipSource, *, segments: int, duration: float, frame_size: int, sample_rate: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decode one clip.

    Args:
        source: its media files.
        segments: number of segments of equal length; a frame is returned for the centre of each.
        duration: length of the clip in seconds; the rest is cut off.
        frame_size: height and width of the returned frames, pixels.
        sample_rate: of the returned waveform, samples per second.

    Returns:
        Frames uint8 (segments, frame_size, frame_size, 3) RGB; waveform int16 (round(duration * sample_rate),) mono;
        and notes on faults and repairs, empty for a flawless clip.

    Raises:
        MediaError: the clip cannot be used, see above.
    """
    if reason := missing_media(source):
        raise MediaError(reason)
    times = [(segment + 0.5) * duration / segments for segment in range(segments)]
    notes = list(source.notes)
    if source.segment_frames:
        frames, video_covered = read_segment_frames(source.segment_frames, frame_size)
    elif kind_of(source.video) == "folder":
        frames, video_covered = read_folder_frames(source.video, times, duration, frame_size)
    else:
        with Container(source.video) as container:
            video = container.stream("video")
            together = source.audio == source.video
            audio = container.stream("audio") if together else None
            container.read([video, audio] if together else [video], duration)
            frames, video_covered = decode_video_frames(container, video, times, frame_size)
            notes += _faults("video", container, video)
            if together:
                waveform, audio_covered = decode_audio(container, audio, times, duration, sample_rate)
                notes += _faults("audio", container, audio)
            notes += _jumps(container)
    if source.audio != source.video:
        with Container(source.audio) as container:
            audio = container.stream("audio")
            container.read([audio], duration)
            waveform, audio_covered = decode_audio(container, audio, times, duration, sample_rate)
            notes += _faults("audio", container, audio) + _jumps(container)
    _note_coverage("video", video_covered, notes)
    _note_coverage("audio", audio_covered, notes)
    if np.abs(waveform.astype(np.int32)).max() < _SILENT_PEAK * FULL_SCALE:
        notes.append("silent")
    return frames, waveform, notes


def _faults(kind: str, container: Container, stream: Any) -> list[str]:
    damaged = [f"damaged {kind}"] if stream.index in container.damaged else []
    return damaged + ([f"{kind} lacks timestamps"] if stream.index in container.undated else [])


def _jumps(container: Container) -> list[str]:
    return [f"timestamps jump by {jump.by:+.1f} s at {jump.time:.1f} s: closed" for jump in container.jumps]


def _note_coverage(kind: str, covered: Sequence[bool], notes: list[str]) -> None:
    count = sum(covered)
    if count < _MIN_COVERED * len(covered):
        raise MediaError(f"{kind} covers only {count} of {len(covered)} segments")
    if count < len(covered):
        notes.append(f"{kind} covers {count} of {len(covered)} segments")
